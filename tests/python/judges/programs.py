# SPDX-License-Identifier: MIT
"""Programs as people run them, over greenlet and over kfiber.greenlet: `make judges`.

Each does the same over both, and `kfiber ps` names its greenlets. Those that are looked at wait for
a file, `released`, which the test makes when it has seen them.
"""

from __future__ import annotations

import http.server
import json
import re
import shutil
import threading
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from judged import SHORT, listens, until

OURS = {True: "kfiber.greenlet", False: "greenlet"}

pytestmark = [pytest.mark.once, pytest.mark.timeout(3600)]


def get(port: int, path: str) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=1000) as answer:
        return answer.read().decode()


APPLICATION = """\
import os
import sys
import gevent

def app(environ, start_response):
    if environ["PATH_INFO"] == "/which":
        said = sys.modules["greenlet"].__name__
    elif environ["PATH_INFO"] == "/wait":
        while not os.path.exists("released"):
            gevent.sleep(0.05)
        said = "waited"
    else:
        gevent.sleep(0)
        said = "slept"
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(len(said)))])
    return [said.encode()]
"""

# As docs/howto/gevent.md has it.
CONFIGURATION = """\
import kfiber

def pre_request(worker, req):
    kfiber.current().name = f"{req.method} {req.path}"
"""


@contextmanager
def gunicorn(judged, folder: Path, ours: bool, *, named: bool = False):
    """Its port and the process id of its worker."""
    (folder / "app.py").write_text(APPLICATION)
    (folder / "configuration.py").write_text(CONFIGURATION if named else "")
    words = ["-m", "gunicorn", "-k", "gevent", "--no-control-socket"]
    words += ["--bind", "127.0.0.1:0", "-c", folder / "configuration.py", "app:app"]
    with judged.start(folder, ours, *words) as server:
        port = int(server.until(r"Listening at: http://127.0.0.1:(\d+)")[1])
        yield port, int(server.until(r"Booting worker with pid: (\d+)")[1])


@pytest.fixture
def folder(tmp_path):
    """Makes an empty one, for greenlet or for ours."""

    def make(ours: bool) -> Path:
        made = tmp_path / OURS[ours]
        made.mkdir()
        return made

    return make


@pytest.mark.parametrize("ours", [False, True])
def test_gunicorn(judged, ours, folder):
    """It answers; handlers have the names that gevent gives, or the requests."""
    judged.needs("gunicorn")
    here = folder(ours)
    for named in (False, True) if ours else (False,):
        with gunicorn(judged, here, ours, named=named) as (port, worker):
            assert get(port, "/which") == OURS[ours]
            with ThreadPoolExecutor(40) as pool:
                waiting = [pool.submit(get, port, "/wait") for _ in range(20)]
                assert set(pool.map(lambda _: get(port, "/sleep"), range(200))) == {"slept"}
                if ours:
                    judged.shown(worker, r"^Hub\.run$", 1)
                    wanted = r"^GET /wait$" if named else r"^_handle.* baseserver\.py:\d+$"
                    judged.shown(worker, wanted, 20)
                (here / "released").touch()
                assert {each.result() for each in waiting} == {"waited"}
        (here / "released").unlink()


TASKS = """\
import os
import sys
import time
from celery import Celery

app = Celery("tasks", broker=os.environ["REDIS"], backend=os.environ["REDIS"])
app.conf.broker_connection_retry_on_startup = True

@app.task
def add(x, y):
    time.sleep(0.001)
    return x + y, sys.modules["greenlet"].__name__

@app.task
def wait():
    while not os.path.exists("released"):
        time.sleep(0.05)
"""
CLIENT = """\
import sys
from celery import group
from tasks import add, wait

waiting = group(wait.s() for _ in range(20))()
added = group(add.s(i, i) for i in range(int(sys.argv[1])))().get()
print("added", sum(total for total, _ in added), *{which for _, which in added}, flush=True)
waiting.get()
print("waited")
"""


@pytest.mark.parametrize("ours", [False, True])
def test_celery(judged, ours, folder, redis):
    """Workers of celery -P gevent do all tasks, with Redis between; `ps` names tasks that wait."""
    judged.needs("celery", "redis")
    here, count = folder(ours), 1_000 if SHORT else 10_000
    (here / "tasks.py").write_text(TASKS)
    (here / "client.py").write_text(CLIENT)
    # A database for each side.
    settings = {"REDIS": redis.removesuffix("0") + str(int(ours)), "C_FORCE_ROOT": "1"}
    words = ["-m", "celery", "-A", "tasks", "worker", "-P", "gevent", "-c", "100", "-l", "info"]
    with (
        judged.start(here, ours, *words, "-n", "one@%h", **settings) as one,
        judged.start(here, ours, *words, "-n", "two@%h", **settings) as two,
    ):
        for worker in (one, two):
            worker.until("ready\\.")
        with judged.start(here, False, "client.py", count, **settings) as client:
            if ours:
                client.until("^added")
                names = judged.names(one.pid) + judged.names(two.pid)
                assert sum(name.startswith("tasks.wait ") for name in names) == 20, names
            (here / "released").touch()
            client.until("^waited")
            assert f"added {count * (count - 1)} {OURS[ours]}" in client.output()


VISITORS = """\
import gevent
from locust import HttpUser, events, task

done = 0

class Visitor(HttpUser):
    def on_start(self):
        self.client.get("/wait")

    @task
    def visit(self):
        self.client.get("/sleep")

@events.request.add_listener
def count(**_):
    global done
    done += 1
    if done == 1000:
        gevent.spawn(runner.quit)

@events.init.add_listener
def init(environment, **_):
    global runner
    runner = environment.runner
"""


@pytest.mark.parametrize("ours", [False, True])
def test_locust(judged, ours, folder):
    """Its users visit gunicorn -k gevent; none fails."""
    judged.needs("gunicorn", "locust")
    here = folder(ours)
    (here / "visitors.py").write_text(VISITORS)
    with gunicorn(judged, here, ours) as (port, worker):
        words = ["-m", "locust", "-f", "visitors.py", "--headless", "-u", 50, "-r", 50, "--json"]
        with judged.start(here, ours, *words, "-H", f"http://127.0.0.1:{port}") as locust:
            if ours:
                judged.shown(locust.pid, r"run_user ", 50)
                judged.shown(worker, "^_handle", 50)
            (here / "released").touch()
            locust.process.wait(600)
        said = locust.output()
    assert locust.process.returncode == 0, said[-5000:]
    rows = json.loads(re.search(r"^\[\s*\{.*^\]", said, re.MULTILINE | re.DOTALL)[0])
    assert sum(row["num_requests"] for row in rows) >= 1000
    assert not any(row["num_failures"] for row in rows)


SOCKETS = """\
from gevent import monkey
monkey.patch_all()
import os
import sys
import flask
import flask_socketio

app = flask.Flask(__name__)
io = flask_socketio.SocketIO(app, async_mode="gevent")

@io.on("say")
def say(data):
    return [data, sys.modules["greenlet"].__name__]

@io.on("wait")
def wait():
    while not os.path.exists("released"):
        io.sleep(0.05)
    return "waited"

io.run(app, host="127.0.0.1", port=int(sys.argv[1]))
"""
SPEAKERS = """\
import sys
import threading
import socketio

said = []

def speak(number):
    client = socketio.Client()
    transport = ["polling"] if number % 2 else ["websocket"]
    client.connect(f"http://127.0.0.1:{sys.argv[1]}", transports=transport, wait_timeout=1000)
    for word in range(20):
        said.append((client.call("say", word, timeout=1000)[0] == word, client.transport()))
    said.append(client.call("wait", timeout=1000))
    client.disconnect()

threads = [threading.Thread(target=speak, args=(number,)) for number in range(20)]
for each in threads:
    each.start()
for each in threads:
    each.join()
print("said", *(said.count(each) for each in ((True, "polling"), (True, "websocket"), "waited")))
"""


@pytest.mark.parametrize("ours", [False, True])
def test_socketio(judged, ours, folder, port):
    """flask-socketio on gevent answers by long polls and by web sockets."""
    judged.needs("flask-socketio", "python-socketio", "requests", "websocket-client")
    here = folder(ours)
    (here / "server.py").write_text(SOCKETS)
    (here / "speakers.py").write_text(SPEAKERS)
    with judged.start(here, ours, "server.py", port) as server:
        until(lambda: listens(port), server.output)
        with judged.start(here, False, "speakers.py", port) as speakers:
            if ours:
                judged.shown(server.pid, "^Server._handle_event_internal ", 20)
            (here / "released").touch()
            speakers.until("^said 200 200 20$")


PAGES = """\
import os
import sys
from playwright.sync_api import sync_playwright

FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
FLAGS += ["--disable-background-networking", "--disable-component-update", "--disable-sync"]

with sync_playwright() as playwright:
    browser = playwright.chromium.launch(executable_path=sys.argv[2], args=FLAGS)
    page = browser.new_page()
    page.set_default_timeout(0)
    heard = []
    page.on("console", lambda message: heard.append(message.text))
    page.goto(f"http://127.0.0.1:{sys.argv[1]}/")
    page.fill("input", "fibers")
    page.click("button")
    print(page.inner_text("p"), page.title(), heard, page.evaluate("6 * 7"))
    page.goto(f"http://127.0.0.1:{sys.argv[1]}/wait")
    print(page.inner_text("p"), sys.modules["greenlet"].__name__)
    browser.close()
"""
PAGE = """\
<title>judge</title><input>
<button onclick="console.log('clicked');
document.querySelector('p').innerText = document.querySelector('input').value">go</button><p></p>
"""


@contextmanager
def site(released: Path):
    """The port of a server of one page, and of another one that waits."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            body = PAGE
            if self.path == "/wait":
                until(released.exists, lambda: "nobody has released it")
                body = "<p>waited</p>"
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body.encode())

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server.server_port
        server.shutdown()
        thread.join()


@pytest.mark.parametrize("ours", [False, True])
def test_playwright(judged, ours, folder):
    """Its synchronous API drives a browser."""
    browser = shutil.which("chromium")
    if not browser:
        pytest.skip("no chromium here; hint: apt install chromium")
    judged.needs("playwright")
    here = folder(ours)
    (here / "pages.py").write_text(PAGES)
    with site(here / "released") as port, judged.start(
        here, ours, "pages.py", port, browser
    ) as program:  # fmt: skip
        program.until(re.escape("fibers judge ['clicked'] 42"))
        if ours:
            judged.shown(program.pid, r"\.greenlet_main$", 1)
        (here / "released").touch()
        program.until(f"^waited {re.escape(OURS[ours])}$")
        assert program.process.wait(300) == 0, program.output()
