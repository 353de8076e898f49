# SPDX-License-Identifier: MIT
"""What happens around the interpreter: signals, fork, its end, other libraries' stacks."""

from __future__ import annotations

import ctypes
import importlib.util
import json
import os
import signal
import subprocess
import sys
import textwrap
import threading

import pytest

import kfiber
from kfiber import Fiber


def spin():
    while True:
        os.getpid()


def test_keyboard_interrupt_in_a_fiber():

    worker = threading.Thread(target=os.kill, args=(os.getpid(), signal.SIGINT))

    def target():
        try:
            worker.start()
            spin()
        except KeyboardInterrupt:
            return "interrupted"

    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        assert Fiber(target).switch() == "interrupted"
        worker.join()
    finally:
        signal.signal(signal.SIGINT, before)


def test_a_signal_handler_may_switch():
    main = kfiber.current()
    other = Fiber(lambda: main.switch("from the handler"))
    before = signal.signal(signal.SIGUSR1, lambda *_: other.switch())
    try:

        def target():
            signal.raise_signal(signal.SIGUSR1)
            return "after the handler"

        fiber = Fiber(target)
        assert fiber.switch() == "from the handler"
        # The handler's switch() is still pending, and returns into the target.
        assert fiber.switch() == "after the handler"
        other.switch()
    finally:
        signal.signal(signal.SIGUSR1, before)


def test_an_asynchronous_exception_hits_what_the_thread_runs():
    main = kfiber.current()
    parked = Fiber(main.switch)
    parked.switch()

    def target():
        raised = ctypes.pythonapi.PyThreadState_SetAsyncExc(
            ctypes.c_ulong(threading.get_ident()), ctypes.py_object(KeyError)
        )
        assert raised == 1
        spin()

    with pytest.raises(KeyError):
        Fiber(target).switch()
    parked.switch()


def test_an_asynchronous_exception_follows_the_thread():
    main = kfiber.current()

    def target():
        ctypes.pythonapi.PyThreadState_SetAsyncExc(
            ctypes.c_ulong(threading.get_ident()), ctypes.py_object(KeyError)
        )

    with pytest.raises(KeyError):
        Fiber(target, parent=main).switch()
        spin()


def test_fork(python):
    done = python(
        """
        import os, threading, kfiber
        main = kfiber.current()

        def numbers():
            n = 0
            while True:
                n += 1
                main.switch(n)

        fiber = kfiber.Fiber(numbers)
        fiber.switch()
        kept = kfiber.engine() != "kernel"
        child = os.fork()
        if not child:
            if kept:
                assert fiber.switch() == 2
                assert fiber.switch() == 3
            else:
                try:
                    fiber.switch()
                except kfiber.FiberFinishedError:
                    pass
                else:
                    raise AssertionError
            assert kfiber.Fiber(lambda: "new").switch() == "new"
            result = []
            worker = threading.Thread(
                target=lambda: result.append(kfiber.Fiber(lambda: 1).switch()))
            worker.start()
            worker.join()
            assert result == [1]
            os._exit(7)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
        # Nothing that the child did is seen here.
        assert fiber.switch() == 2
        """
    )
    assert done.stderr == ""


@pytest.mark.parametrize("way", ["end", "drop", "cycle", "adopt", "resume", "kill"])
def test_a_child_leaves_its_parents_fibers_alone(python, way):
    """`finally` blocks run in the process that suspended the fiber, or made it its own."""
    if kfiber.engine() == "kernel":
        pytest.skip("engine kernel: the child has no fibers at all")
    done = python(
        """
        import gc, kfiber, os
        main, this, way = kfiber.current(), os.getpid(), os.environ["WAY"]
        if way == "adopt":
            os.register_at_fork(after_in_child=kfiber.adopt)
        def target():
            me = kfiber.current() if way == "cycle" else None
            try:
                main.switch()
                main.switch()
            finally:
                os.write(1, b"parent " if os.getpid() == this else b"child ")
        fiber = kfiber.Fiber(target)
        fiber.switch()
        child = os.fork()
        if child:
            assert os.waitpid(child, 0)[1] == 0
            fiber.kill()
        elif way in ("drop", "cycle"):
            del fiber
            gc.collect()
        elif way == "resume":
            fiber.switch()
        elif way == "kill":
            fiber.kill()
        """,
        WAY=way,
    )
    child = "child " if way in ("adopt", "resume", "kill") else ""
    assert done.stdout == child + "parent "


def test_fork_in_a_fiber(python):
    python(
        """
        import os, threading, kfiber
        main = kfiber.current()
        def run_in_a_thread():
            result = []
            worker = threading.Thread(
                target=lambda: result.append(kfiber.Fiber(lambda: "there").switch()))
            worker.start()
            worker.join()
            assert result == ["there"]
        def forker():
            child = os.fork()
            if child:
                return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
            if kfiber.engine() == "kernel":
                # It is all there is.
                assert kfiber.current() is kfiber.root() is fiber
                assert main.state == "finished"
                assert kfiber.Fiber(lambda: "new").switch() == "new"
                run_in_a_thread()
                raise SystemExit(3)
            run_in_a_thread()
            main.switch("child")
            return "end of the child"
        fiber = kfiber.Fiber(forker)
        result = fiber.switch()
        if result == "child":
            assert kfiber.current() is main
            assert fiber.switch() == "end of the child"
            os._exit(3)
        assert result == 3
        """
    )


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_fork_leaves_other_threads_fibers_behind(python):
    if kfiber.engine() == "kernel":
        pytest.skip("engine kernel: the child has no fibers at all")
    python(
        """
        import os, threading, warnings, kfiber
        warnings.simplefilter("ignore")
        main = kfiber.current()
        parked = kfiber.Fiber(lambda: main.switch() or "went on")
        parked.switch()
        ready, over = threading.Event(), threading.Event()
        fibers = []
        def target():
            ready.set()
            over.wait()
        def run():
            fibers.extend([kfiber.root(), kfiber.Fiber(target)])
            fibers[1].switch()
        worker = threading.Thread(target=run)
        worker.start()
        ready.wait()
        child = os.fork()
        if not child:
            assert [fiber.state for fiber in fibers] == ["finished"] * 2
            for fiber in fibers:
                try:
                    fiber.switch()
                except kfiber.FiberFinishedError:
                    pass
                else:
                    raise AssertionError
            assert parked.switch() == "went on"
            os._exit(5)
        over.set()
        worker.join()
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 5
        """
    )


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_fork_leaves_those_behind_who_wait_for_a_fiber(python):
    """Their stacks are other threads' in the child by the time when the fiber finishes."""
    if kfiber.engine() == "kernel":
        pytest.skip("engine kernel: the forking fiber is all there is in the child")
    python(
        """
        import ctypes, os, threading, warnings, kfiber
        warnings.simplefilter("ignore")
        def wait():
            ready.release()
            fiber.join()
        class Large(ctypes.Structure):
            _fields_ = [("bytes", ctypes.c_char * 32768)]
        def write():
            # All of it is copied to the thread's stack.
            ctypes.CDLL(None).getpid(Large(b"x" * 32768))
        def run():
            for _ in range(4):
                waiters.append(threading.Thread(target=wait))
                waiters[-1].start()
                ready.acquire()
            # Each sleeps: what it does before that takes no time.
            for each in waiters:
                path = f"/proc/self/task/{each.native_id}/stat"
                while ") S" not in open(path).read():
                    pass
            child = os.fork()
            if not child:
                for _ in range(8):
                    thread = threading.Thread(target=write)
                    thread.start()
                    thread.join()
            return child
        ready, waiters = threading.Semaphore(0), []
        fiber = kfiber.Fiber(run)
        child = fiber.switch()
        assert fiber.join(), fiber
        if not child:
            os._exit(5)
        for each in waiters:
            each.join()
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 5
        """
    )


def test_multiprocessing_forks_from_a_fiber(python):
    done = python(
        """
        import multiprocessing, kfiber
        def work(queue):
            queue.put(kfiber.Fiber(lambda: 6).switch())
        def target():
            context = multiprocessing.get_context("fork")
            queue = context.Queue()
            child = context.Process(target=work, args=(queue,))
            child.start()
            value = queue.get()
            child.join()
            return value, child.exitcode
        print(kfiber.Fiber(target).switch())
        """
    )
    assert done.stdout == "(6, 0)\n"


def test_suspended_fibers_unwind_at_exit(python):
    done = python(
        """
        import kfiber
        main = kfiber.current()
        def target(name):
            try:
                main.switch()
            finally:
                print("ended", name)
        fibers = [kfiber.Fiber(target, i) for i in range(3)]
        for fiber in fibers:
            fiber.switch()
        print("exit")
        """
    )
    lines = done.stdout.splitlines()
    assert lines[0] == "exit"
    assert sorted(lines[1:]) == ["ended 0", "ended 1", "ended 2"]


def test_exit_from_a_fiber(python):
    done = python(
        """
        import sys, kfiber
        kfiber.Fiber(sys.exit, 9).switch()
        """,
        status=9,
    )
    assert done.stderr == ""


def test_exit_with_fibers_on_daemon_threads(python):
    done = python(
        """
        import sys, threading, kfiber
        from kfiber._native import swap
        ready = threading.Semaphore(0)
        parked = []
        def target():
            ready.release()
            threading.Event().wait()
        def spin():
            ready.release()
            while True:
                kfiber.Fiber(lambda: None).switch()
        def park():
            fiber = kfiber.Fiber(lambda: kfiber.root().switch())
            fiber.switch()
            parked.append(fiber)
            ready.release()
            threading.Event().wait()
        threads = [target, lambda: kfiber.Fiber(target).switch(), park]
        # The public swap of 3.12 uses what the interpreter's end has removed.
        if sys.version_info[:2] != (3, 12) or swap() == "fast":
            threads += [spin, lambda: kfiber.Fiber(spin).switch()]
        for each in threads:
            threading.Thread(target=each, daemon=True).start()
        for _ in threads:
            ready.acquire()
        print("exit")
        """
    )
    assert done.stdout == "exit\n"
    assert done.stderr == ""


def test_a_program_without_fibers_ends_as_ever(python):
    done = python("import kfiber; kfiber.fibers; print('end')")
    assert (done.stdout, done.stderr) == ("end\n", "")


FORBID = """
def forbid(event, arguments):
    if event == "sys.addaudithook":
        raise RuntimeError("no hooks")
sys.addaudithook(forbid)
"""


def test_a_module_that_is_half_imported_is_noticed_later(python):
    done = python(
        """
        import kfiber, sys, types
        main = kfiber.current()
        # What fibers look for is there, but empty: as in the middle of its import.
        sys.modules["_asyncio"] = types.ModuleType("_asyncio")
        import this as event
        kfiber.Fiber(lambda: None).switch()
        del sys.modules["_asyncio"]
        import asyncio
        async def leave():
            main.switch("left")
        print(kfiber.Fiber(lambda: asyncio.run(leave())).switch(), asyncio._get_running_loop())
        """
    )
    assert done.stdout.endswith("left None\n")


@pytest.mark.skipif(
    importlib.util.find_spec("greenlet") is None, reason="greenlet is not installed"
)
@pytest.mark.parametrize("before", ["", FORBID], ids=["hook", "no hook"])
def test_an_import_is_noticed_whatever_becomes_of_the_others(python, before):
    """As many modules go as come. Where nobody noticed greenlet, this overwrote stacks."""
    done = python(
        "import sys\n"
        + before
        + textwrap.dedent("""
        import kfiber
        sys.modules.update({f"stands in {i}": None for i in range(500)})
        kfiber.Fiber(lambda: None).switch()
        before = len(sys.modules)
        import greenlet
        for i in range(len(sys.modules) - before):
            del sys.modules[f"stands in {i}"]
        assert len(sys.modules) == before
        def inside():
            try:
                kfiber.Fiber(lambda: None).switch()
            except kfiber.FiberError as error:
                print(error)
        greenlet.greenlet(inside).switch()
        """)
    )
    assert done.stdout == "fibers cannot be switched inside a greenlet\n"


def test_the_fast_swap_is_there(python):
    """On the usual builds, whatever their micro release: its places are found in memory."""
    if hasattr(sys, "gettotalrefcount"):
        pytest.skip("a debug build may be made otherwise")
    done = python("from kfiber._native import swap; print(swap())", KFIBER_SWAP="")
    assert done.stdout == "fast\n"


@pytest.mark.parametrize("before", ["", "import kfiber; kfiber.current()"])
def test_no_subinterpreters(python, before):
    python(
        f"""
        {before}
        try:
            import _interpreters as interpreters
        except ImportError:
            import _xxsubinterpreters as interpreters
        program = '''
        try:
            from kfiber import Fiber
        except ImportError as error:
            assert "main interpreter" in str(error) or "subinterpreters" in str(error), error
        else:
            raise AssertionError
        '''
        import textwrap
        interpreter = interpreters.create()
        failed = interpreters.run_string(interpreter, textwrap.dedent(program))
        assert not failed, failed
        interpreters.destroy(interpreter)
        """
    )


def test_seen_from_another_process():
    """kfiber ps, without the program's help."""
    program = """
        import sys, kfiber
        main = kfiber.current()
        def some_work():
            main.switch()
        fibers = [kfiber.Fiber(some_work), kfiber.Fiber(some_work, name="named")]
        fibers[0].switch()
        print("ready", flush=True)
        sys.stdin.read()
        """
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(program)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    with process:
        assert process.stdout.readline() == b"ready\n"
        shown = subprocess.run(
            [sys.executable, "-m", "kfiber", "ps", "--json", str(process.pid)],
            capture_output=True,
            check=True,
        )
        process.stdin.close()
    assert process.returncode == 0
    fibers = json.loads(shown.stdout)
    assert [(each["name"], each["state"]) for each in fibers] == [
        ("", "running"),
        ("some_work", "suspended"),
        ("named", "new"),
    ]
