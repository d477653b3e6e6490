"""The report is one page that says everything, fetches nothing and survives whatever a run is called."""

import json
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from html.parser import HTMLParser
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest
from hypothesis import given
from hypothesis import strategies as st
from recorded import Pretended, failed, finished, pretend
from shardwright.jobs.events import Event
from shardwright.jobs.history import history, mfu
from shardwright.jobs.report.facts import gather, read_spec
from shardwright.jobs.report.numbers import count, duration, memory, plain, share
from shardwright.jobs.report.page import page, write
from shardwright.jobs.report.scale import Scale, around, smooth, thin
from shardwright.jobs.run_folder import RunFolder, create

EVIL = '"><script>alert(1)</script><img src=x onerror=alert(2)>'
CHARTS = {"Loss", "Learning rate", "Gradient norm", "Tokens a second"}


class Page(HTMLParser):
    """What a browser makes of the text: tags, attributes and visible text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.text: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_data(self, data):
        self.text.append(data)

    def drawn(self) -> dict[str, int]:
        """Title of each drawing -> number of its paths."""
        found, title = {}, ""
        for tag, attributes in self.tags:
            if tag == "svg":
                title = attributes["aria-label"]
            elif tag == "path":
                found[title] = found.get(title, 0) + 1
        return found


def test_everything_that_was_asked_is_on_the_page(tmp_path):
    run = finished(tmp_path)
    assert write(run) == run.report
    html = run.report.read_text()
    shown = " ".join(Page(html).text)
    for words in ("gpt-1", "finished", "gpt2 tiny", "807k", "4 workers", "zero3x2_tensor2", "300 of 300 steps"):
        assert words in shown
    for words in (
        "bits per byte",
        "unigram 3.240 nats, 4.674 bits",
        "1 step computed twice",
        "signal 9",
        "unexplained",
    ):
        assert words in shown
    for words in ("global_batch", "gpt.toml:13", "command line", "def read(", "Read <all> of a file", "2.13.0"):
        assert words in shown
    assert Page(html).drawn().keys() == CHARTS
    assert "MFU" not in shown


def test_the_time_bar_is_as_long_as_the_wall_time(tmp_path):
    html = page(gather(finished(tmp_path)))
    big = html.split('<div class="bar big"')[1].split("</div>")[0]
    assert sum(map(float, re.findall(r"width:([\d.]+)%", big))) == pytest.approx(100, abs=0.01)


def test_a_failure_shows_its_traceback_once_for_all_ranks(tmp_path):
    html = page(gather(failed(tmp_path)))
    assert html.count("Traceback (most recent call last)") == 1
    assert "ranks 1, 3 on node-a" in html
    assert "shardwright resume broken-1" in html


def test_a_victim_has_no_failure_block(tmp_path):
    run = pretend(tmp_path)
    run.begin()
    run.tell(0, "failure", rank=0, type="RuntimeError", message="Connection closed by peer", traceback="gone")
    run.tell(None, "death", rank=2, cause="signal 9", step=1)
    run.tell(None, "death", rank=0, cause="RuntimeError", victim=True)
    html = page(gather(run.run))
    assert "Connection closed by peer" not in html
    assert "victims, which lost a peer: 0" in html


def evil(root: Path) -> RunFolder:
    """A run in which everything that a person or a model can name is hostile."""
    spec = f"[run]\nname = {json.dumps(EVIL)}  # {EVIL}\n[model]\nname = {json.dumps(EVIL)}  # {EVIL}\n"
    run = Pretended(create(root, "evil", spec, plan={"layout": EVIL, "parameters": 5}), steps=3)
    named = run.run.path.rename(root / "<script>alert(3)<")
    run.run = RunFolder(named)
    run.begin()
    run.tell(0, "start", layout=EVIL, host=EVIL, device=EVIL, world_size=4)
    run.step(1)
    run.tell(0, "step", step=2, loss=1.0, tokens=1, seconds=1.0, spent={EVIL: 0.5})
    run.tell(0, "phase", name=EVIL)
    run.tell(0, "sample", prompt=EVIL, text=EVIL)
    run.tell(0, "failure", rank=0, host=EVIL, phase=EVIL, step=2, type=EVIL, message=EVIL, traceback=EVIL)
    run.tell(None, "death", rank=0, cause=EVIL, phase=EVIL, step=2)
    run.tell(None, "give_up", reason=EVIL)
    return run.run


def test_hostile_names_are_only_text(tmp_path):
    found = Page(page(gather(evil(tmp_path))))
    assert [tag for tag, _ in found.tags].count("script") == 1
    assert not [tag for tag, _ in found.tags if tag in ("img", "iframe", "link", "object", "embed")]
    assert not [name for _, attributes in found.tags for name in attributes if name.startswith("on")]
    assert "".join(found.text).count(EVIL) > 8


def test_nothing_on_the_page_points_outside(tmp_path):
    html = page(gather(finished(tmp_path)))
    assert not re.findall(r"""(?:src|href|srcset|action|data)\s*=\s*["']""", html)
    assert not re.findall(r"url\(|@import|fetch\(|XMLHttpRequest|WebSocket|https?://", html)
    assert "default-src 'none'" in html


def test_a_run_that_has_only_begun_has_a_report(tmp_path):
    run = create(tmp_path, "new", "")
    assert "No values yet" in page(gather(run))
    with run.lock():
        assert "running" in page(gather(run))


def test_a_loss_that_is_not_finite_is_told(tmp_path):
    run = pretend(tmp_path)
    run.begin()
    run.step(1)
    for rank in range(4):
        run.tell(rank, "step", step=2, loss=float("nan"), tokens=1, seconds=0.1)
    assert "not finite at step 2" in page(gather(run.run))


def test_mfu_is_printed_with_formula_and_peak_or_not_at_all():
    speed = {"step_flops": 4e12, "peak_flops": 1e13, "peak_source": "ACME 1 (bf16)"}
    steps = [Event(n, "step", 0, 0, {"step": n, "loss": 1.0, "seconds": 0.5}) for n in (1, 2, 3)]
    start = Event(0, "start", 0, 0, {"world_size": 2})
    found = mfu(history([start, Event(0, "speed", 0, 0, speed), *steps]))
    assert found.value == pytest.approx(4e12 / (0.5 * 2 * 1e13))
    assert str(found) == "MFU 40.0% = 4e+12 FLOPs a step / (0.5 s x 2 x 1e+13 FLOP/s peak of ACME 1 (bf16))"
    assert mfu(history([start, *steps])) is None


def test_spec_values_come_with_their_origins(tmp_path):
    path = tmp_path / "spec.toml"
    path.write_text(
        '[a]\nx = "y  # z"  # gpt.toml:3\nlist = [1, 2]  # default\nbare = 1\n[a.config]\n"q r" = 2  # there\n'
    )
    assert [(one.section, one.key, one.value, one.origin) for one in read_spec(path)] == [
        ("a", "x", "y  # z", "gpt.toml:3"),
        ("a", "list", [1, 2], "default"),
        ("a", "bare", 1, ""),
        ("a", "config.q r", 2, "there"),
    ]


def test_numbers_read_short():
    assert [count(value) for value in (0, 806_912, 1e9, 36_000, 999_999)] == ["0", "807k", "1.00B", "36.0k", "1.00M"]
    assert [duration(value) for value in (4e-5, 0.085, 12.34, 59.97, 200, 7500, 100_000)] == [
        "40 µs", "85 ms", "12.3 s", "1 min 00 s", "3 min 20 s", "2 h 05 min", "1 d 3 h",
    ]  # fmt: skip
    assert [memory(value) for value in (10, 2048, 3 << 30)] == ["10 B", "2 KiB", "3 GiB"]
    assert [plain(value) for value in (0.0, 3e-3, 1e-5, 123456.0, None)] == ["0", "0.003", "1.000e-5", "123,456", "–"]
    assert [share(value) for value in (0.0, 1e-5, 0.5)] == ["0.0 %", "< 0.1 %", "50.0 %"]


VALUES = st.floats(-1e6, 1e6, allow_nan=False)


@given(st.lists(VALUES, min_size=1), st.booleans())
def test_ticks_are_few_and_inside(values, zero):
    scale = around(values, zero=zero)
    ticks = scale.ticks()
    assert all(scale.low - 1e-6 <= tick <= scale.high + 1e-6 for tick in ticks)
    assert 1 <= len(ticks) <= 12
    assert all(0 <= scale.at(value) <= 1 for value in values)


@given(st.floats(1e-6, 1e3), st.floats(60, 1e6))
def test_logarithmic_ticks_lie_inside(low, ratio):
    scale = Scale(low, low * ratio, log=True)
    assert all(0 <= scale.at(tick) <= 1 for tick in scale.ticks())
    assert scale.ticks()


@given(st.lists(VALUES, min_size=1, max_size=3000))
def test_thinning_keeps_ends_and_extremes(values):
    points = [(float(index), value) for index, value in enumerate(values)]
    kept = thin(points, 100)
    assert len(kept) <= 110
    assert kept[0] == points[0] and kept[-1] == points[-1]
    assert {min(values), max(values)} <= {value for _, value in kept}
    assert kept == sorted(kept)


def test_smoothing_keeps_a_straight_line_where_it_is():
    line = [(float(index), 2.0 * index) for index in range(50)]
    assert [y for _, y in smooth(line, 9)] == pytest.approx([y for _, y in line])


def test_importing_the_report_imports_no_torch():
    code = "import sys, shardwright.jobs.report.page; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


POINTER = """<script>
const area = document.querySelector('.area'), box = area.getBoundingClientRect();
area.dispatchEvent(new PointerEvent('pointermove', {clientX: box.left + box.width / 2}));
</script></body>"""
MISSING = '<main><img src="missing.png">'


@dataclass
class Visit:
    """What a browser saw and asked for."""

    page: Page
    requests: list[str]


@pytest.fixture
def visit(tmp_path):
    """Serves a page to Chromium on the loopback; gives its DOM after its scripts have run, and the requests it made."""
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if chromium is None:
        pytest.skip("chromium is not installed")
    requests: list[str] = []
    flags = (
        "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
        "--disable-component-update --disable-sync --virtual-time-budget=2000 --dump-dom"
    )

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            requests.append(self.path)
            self.send_response(200 if self.path == "/" else 404)
            self.end_headers()
            self.wfile.write(served[0].encode() if self.path == "/" else b"")

        def log_message(self, *_):
            pass

    served = [""]
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        Thread(target=server.serve_forever, daemon=True).start()

        def visited(html: str) -> Visit:
            served[0] = html
            place = f"http://127.0.0.1:{server.server_port}/"
            command = [chromium, *flags.split(), f"--user-data-dir={tmp_path / 'profile'}", place]
            done = subprocess.run(command, capture_output=True, text=True, timeout=120)
            assert done.returncode == 0, done.stderr
            return Visit(Page(done.stdout), [path for path in requests if path != "/favicon.ico"])

        yield visited
        server.shutdown()


def test_a_browser_draws_the_charts_and_fetches_nothing(tmp_path, visit):
    html = page(gather(finished(tmp_path / "runs")))
    found = visit(html.replace("</body>", POINTER).replace("<main>", MISSING))
    drawn = found.page.drawn()
    assert drawn.keys() == CHARTS
    assert min(drawn.values()) >= 4
    assert found.requests == ["/"], "the page's policy keeps even an image back"
    assert re.search(r"step 1[45]\d", "".join(found.page.text)), "the pointer reads a step in the middle"


def test_the_browser_would_notice_a_fetch(tmp_path, visit):
    html = page(gather(finished(tmp_path / "runs")))
    without = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", html)
    assert visit(without.replace("<main>", MISSING)).requests == ["/", "/missing.png"]
    assert not re.search(r"step 1[45]\d", "".join(Page(without).text)), "nobody has pointed yet"


def test_a_browser_runs_nothing_of_a_hostile_run(tmp_path, visit):
    found = visit(page(gather(evil(tmp_path))))
    tags = [tag for tag, _ in found.page.tags]
    assert tags.count("script") == 1
    assert "img" not in tags
    assert found.requests == ["/"]


def alternating(tmp_path: Path) -> RunFolder:
    """A run of two phases whose losses are far apart, with a term that not every step tells."""
    run = create(tmp_path, "rivals", "[model]\nname = 'rivals:ENTRY'\n", plan={})
    writer = Pretended(run, steps=20, ranks=1)
    writer.begin()
    for step in range(1, 21):
        turn = "critic" if step % 2 else "generator"
        told = {"loss": 100.0, "return": 7.0 + step} if turn == "critic" else {"loss": 1.0}
        writer.tell(
            0, "step", step=step, loss=told["loss"], terms=told, turn=turn, grad_norm=told["loss"], lr=0.1, seconds=0.1
        )
    writer.tell(0, "eval", step=20, loss=2.0, terms={"loss": 2.0, "return": 30.0}, seconds=0.1)
    writer.tell(None, "finished")
    return run


def test_phases_have_lines_of_their_own_and_terms_a_chart(tmp_path):
    shown = Page(page(gather(alternating(tmp_path))))
    assert {"Loss", "Return"} <= shown.drawn().keys()
    data = [json.loads(given["data-curves"]) for _, given in shown.tags if "data-curves" in given]
    loss = {curve["n"]: curve for curve in data[0]}
    assert loss["critic"]["y"] == ["100"] * 10 and loss["critic"]["x"] == [*range(1, 21, 2)]
    assert loss["generator"]["y"] == ["1"] * 10 and loss["generator"]["x"] == [*range(2, 21, 2)]
    returned = next(each for each in data if each[0]["y"][0] == "8")
    assert [(curve["n"], len(curve["x"])) for curve in returned] == [("critic", 10), ("validation", 1)]
