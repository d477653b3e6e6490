"""Are the devices counted that a worker could use?"""

import pytest
from shardwright.cluster.devices import choose_device, count_gpus
from shardwright.jobs.spec import JobError


@pytest.mark.parametrize(
    ("environ", "count"),
    [
        ({}, 2),
        ({"CUDA_VISIBLE_DEVICES": "1"}, 1),
        ({"CUDA_VISIBLE_DEVICES": "0,GPU-8f2a"}, 2),
        ({"CUDA_VISIBLE_DEVICES": ""}, 0),
        ({"CUDA_VISIBLE_DEVICES": "-1"}, 0),
    ],
)
def test_counting(environ, count, tmp_path):
    for node in ("nvidia0", "nvidia1", "nvidiactl", "nvidia-uvm", "null"):
        (tmp_path / node).touch()
    assert count_gpus(environ, tmp_path) == count


def test_auto_takes_gpus_only_where_there_is_one_for_each_worker():
    assert choose_device("auto", 2, 2) == "cuda"
    assert choose_device("auto", 3, 2) == "cpu"
    assert choose_device("cpu", 1, 2) == "cpu"
    with pytest.raises(JobError, match=r"resources\.workers = 3, but this machine shows 2 GPUs"):
        choose_device("cuda", 3, 2)
