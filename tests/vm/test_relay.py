# SPDX-License-Identifier: MIT
"""Copying threads: their ends, and a reader or a source that stands still."""

import os
import socket
import threading

import pytest

from kfiber.vm.relay import FromGuest, ToGuest


@pytest.fixture
def port():
    ours, guests = socket.socketpair()
    with ours, guests:
        yield ours, guests


def test_all_bytes_go_in_and_then_the_end(port):
    ours, guests = port
    read, write = os.pipe()
    thread = ToGuest(read, ours)
    thread.start()
    data = os.urandom(1 << 20)
    writer = threading.Thread(target=lambda: (os.write(write, data), os.close(write)))
    writer.start()
    received = b""
    while chunk := guests.recv(1 << 16):
        received += chunk
    assert received == data
    writer.join()
    thread.stop()
    os.close(read)


def test_no_source_is_an_end(port):
    ours, guests = port
    thread = ToGuest(None, ours)
    thread.start()
    assert guests.recv(1) == b""
    thread.stop()


def test_a_silent_source_can_be_left(port):
    ours, _ = port
    read, write = os.pipe()
    thread = ToGuest(read, ours)
    thread.start()
    thread.stop()
    assert not thread.is_alive()
    os.close(read)
    os.close(write)


def test_a_guest_that_does_not_read_can_be_left(port):
    ours, _ = port
    with open("/dev/zero", "rb") as zeros:
        thread = ToGuest(zeros.fileno(), ours)
        thread.start()
        thread.stop()
        assert not thread.is_alive()


def test_bytes_that_come_out_are_counted(port):
    ours, guests = port
    read, write = os.pipe()
    thread = FromGuest(ours, write, pytest.fail)
    thread.start()
    assert not thread.wait_for(1, 0.01)
    guests.sendall(b"12345")
    assert thread.wait_for(5, 10)
    assert os.read(read, 10) == b"12345"
    guests.close()
    # No more will come: nothing to wait for.
    assert thread.wait_for(1000, 10)
    thread.join()
    os.close(read)
    os.close(write)


def test_a_reader_that_is_gone_is_reported(port):
    ours, guests = port
    read, write = os.pipe()
    os.close(read)
    gone = threading.Event()
    thread = FromGuest(ours, write, gone.set)
    thread.start()
    guests.sendall(b"1")
    assert gone.wait(60)
    thread.join()
    os.close(write)
