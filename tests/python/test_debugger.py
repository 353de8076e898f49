# SPDX-License-Identifier: MIT
"""pydevd, the debugger of VS Code and PyCharm, on two interleaved fibers, through its protocol."""

import importlib.util
import itertools
import json
import socket
import subprocess
import sys
import time

import pytest

pytestmark = [
    pytest.mark.skipif(
        importlib.util.find_spec("debugpy") is None, reason="debugpy is not installed"
    ),
    pytest.mark.once,
]

# Lines 5 and 7, and 10 and 12 in the other one, switch.
PROGRAM = """import kfiber
root = kfiber.root()
def one():
    value = "first"
    root.switch()
    value = "second"
    root.switch()
def two():
    other = 1
    root.switch()
    other = 2
    root.switch()
fibers = [kfiber.Fiber(one), kfiber.Fiber(two)]
for _ in range(3):
    for fiber in fibers:
        fiber.switch()
"""


class Client:
    """Of the Debug Adapter Protocol."""

    def __init__(self, connection):
        self.stream = connection.makefile("rwb")
        self.numbers = itertools.count(1)
        self.events = []

    def send(self, command, **arguments):
        number = next(self.numbers)
        request = {"seq": number, "type": "request", "command": command, "arguments": arguments}
        body = json.dumps(request).encode()
        self.stream.write(b"Content-Length: %d\r\n\r\n" % len(body) + body)
        self.stream.flush()
        return number

    def read(self):
        size = 0
        while line := self.stream.readline().strip():
            if line.lower().startswith(b"content-length:"):
                size = int(line.split(b":")[1])
        return json.loads(self.stream.read(size))

    def answer(self, number):
        while True:
            message = self.read()
            if message["type"] == "event":
                self.events.append(message)
            elif message.get("request_seq") == number:
                assert message["success"], message
                return message.get("body")

    def ask(self, command, **arguments):
        return self.answer(self.send(command, **arguments))

    def event(self, name):
        while True:
            for message in self.events:
                if message["event"] == name:
                    self.events.remove(message)
                    return message.get("body")
            message = self.read()
            if message["type"] == "event":
                self.events.append(message)

    def step(self, thread):
        """Over the line at which it has stopped."""
        self.send("next", threadId=thread)
        return self.stopped()

    def stopped(self):
        """The thread that has stopped; its innermost frame's function, line, and variables."""
        thread = self.event("stopped")["threadId"]
        frame = self.ask("stackTrace", threadId=thread)["stackFrames"][0]
        scope = self.ask("scopes", frameId=frame["id"])["scopes"][0]
        variables = self.ask("variables", variablesReference=scope["variablesReference"])
        values = {each["name"]: each["value"] for each in variables["variables"]}
        return thread, (frame["name"], frame["line"], values)


@pytest.fixture
def client(tmp_path):
    """Connected to the program, which waits for it."""
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = server.getsockname()
    child = subprocess.Popen(
        [
            *(sys.executable, "-m", "debugpy", "--listen", f"{address[0]}:{address[1]}"),
            *("--wait-for-client", program),
        ],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        with connected(child, address) as connection:
            client = Client(connection)
            client.program = str(program)
            yield client
    finally:
        child.kill()
        child.wait()


def connected(child, address):
    """As soon as the program listens."""
    while child.poll() is None:
        try:
            return socket.create_connection(address)
        except ConnectionRefusedError:
            time.sleep(0.05)
    raise AssertionError(f"debugpy ended with {child.returncode}")


def test_a_step_stays_in_its_fiber(client):
    client.ask("initialize", adapterID="kfiber", pathFormat="path")
    attached = client.send("attach", justMyCode=False)
    client.event("initialized")
    lines = [{"line": 5}, {"line": 12}]
    client.ask("setBreakpoints", source={"path": client.program}, breakpoints=lines)
    client.ask("configurationDone")
    client.answer(attached)
    thread, place = client.stopped()
    assert place == ("one", 5, {"value": "'first'"})
    # Over the switch: the other fiber runs meanwhile.
    thread, place = client.step(thread)
    assert place == ("one", 6, {"value": "'first'"})
    thread, place = client.step(thread)
    assert place == ("one", 7, {"value": "'second'"})
    client.send("continue", threadId=thread)
    thread, place = client.stopped()
    assert place == ("two", 12, {"other": "2"})
    client.send("continue", threadId=thread)
    client.event("terminated")
    client.ask("disconnect")
