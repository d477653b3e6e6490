"""Which files go into a run's copy of the user's code?"""

import sys

from shardwright.cluster.code import MAX_BYTES, on_path, own_files


def test_a_module_with_what_it_imports(tmp_path):
    (tmp_path / "entry.py").write_text("import json, torch\nfrom layers.attention import A\nimport sizes as s\n")
    (tmp_path / "sizes.py").write_text("import entry\n")
    (tmp_path / "unused.py").write_text("")
    package = tmp_path / "layers"
    (package / "__pycache__").mkdir(parents=True)
    (package / "__pycache__" / "x.pyc").write_text("")
    (package / "__init__.py").write_text("from . import attention\n")
    (package / "attention.py").write_text("class Attention: ...\n")
    (package / "table.json").write_text("{}")
    (package / "weights.bin").write_bytes(bytes(MAX_BYTES + 1))
    files = own_files(["entry:model"], [tmp_path])
    assert sorted(files) == ["entry.py", "layers/__init__.py", "layers/attention.py", "layers/table.json", "sizes.py"]
    assert files["layers/table.json"] == package / "table.json"


def test_a_broken_file_is_copied_and_not_read(tmp_path):
    (tmp_path / "broken.py").write_text("def (:\n")
    assert list(own_files(["broken:x"], [tmp_path])) == ["broken.py"]


def test_what_is_installed_or_missing_is_not_copied(tmp_path):
    assert own_files(["numpy:array", "json:loads", "no_such_module:x", "shardwright.cli:main"], [tmp_path]) == {}


def test_the_path_is_given_back(tmp_path):
    before = list(sys.path)
    with on_path([tmp_path]):
        assert sys.path[0] == str(tmp_path)
    assert sys.path == before
