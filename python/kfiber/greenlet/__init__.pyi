from collections.abc import Callable
from contextvars import Context
from types import FrameType, TracebackType
from typing import Any, Final, Literal, TypeAlias, overload

from typing_extensions import disjoint_base

__all__ = [
    "_C_API",
    "GreenletExit",
    "__version__",
    "error",
    "getcurrent",
    "gettrace",
    "greenlet",
    "install",
    "installed",
    "settrace",
]

_Event: TypeAlias = Literal["switch", "throw"]
_Trace: TypeAlias = Callable[[_Event, tuple[greenlet, greenlet]], object]

START: Final = "kfiber-greenlet.pth"
VARIABLE: Final = "KFIBER_GREENLET"

_C_API: object
__version__: str

CLOCKS_PER_SEC: int
GREENLET_USE_CONTEXT_VARS: int
GREENLET_USE_GC: int
GREENLET_USE_TRACING: int

class error(Exception): ...
class GreenletExit(BaseException): ...

@disjoint_base
class greenlet:
    """A function that runs on a fiber of its thread."""

    error: type[error]
    GreenletExit: type[GreenletExit]

    def __init__(self, run: Callable[..., Any] | None = ..., parent: greenlet | None = ...) -> None:
        """Its parent is the current one, if not given.

        TypeError: `parent` is no greenlet. ValueError: `parent` was collected.
        """

    def switch(self, *args: Any, **kwargs: Any) -> Any:
        """Leaves the calling greenlet and goes on with this one.

        A new one begins with run(*args, **kwargs). In a suspended one its own switch() returns the
        argument if there is one, else the tuple of arguments, the dictionary of keywords, or both.
        A dead one stands for its parent. error: it belongs to another thread.
        """

    @overload
    def throw(
        self,
        type: type[BaseException] = ...,
        value: object = ...,
        traceback: TracebackType | None = ...,
        /,
    ) -> Any: ...
    @overload
    def throw(
        self, type: BaseException, value: None = ..., traceback: TracebackType | None = ..., /
    ) -> Any:
        """As switch(), but raises this exception there, by default GreenletExit."""

    def __bool__(self) -> bool:
        """It has started and not ended."""

    def __getstate__(self) -> Any:
        """TypeError."""

    @property
    def dead(self) -> bool:
        """It has ended, or its thread has."""
    @property
    def gr_frame(self) -> FrameType | None:
        """Its innermost frame while it is suspended."""
    @property
    def gr_context(self) -> Context | None:
        """None is an empty one."""
    @gr_context.setter
    def gr_context(self, value: Context | None, /) -> None: ...
    @property
    def parent(self) -> greenlet | None:
        """Who gets its value or exception. ValueError: a cycle, or a greenlet of another thread."""
    @parent.setter
    def parent(self, value: greenlet, /) -> None: ...
    @property
    def run(self) -> Callable[..., Any]:
        """AttributeError: it has none, or has started."""
    @run.setter
    def run(self, value: Callable[..., Any], /) -> None: ...
    @property
    def _stack_saved(self) -> int: ...
    @staticmethod
    def getcurrent() -> greenlet: ...
    @staticmethod
    def gettrace() -> _Trace | None: ...
    @staticmethod
    def settrace(callback: _Trace | None, /) -> _Trace | None: ...

def getcurrent() -> greenlet:
    """The calling one. RuntimeError: the interpreter ends."""

def gettrace() -> _Trace | None:
    """This thread's trace function."""

def settrace(callback: _Trace | None, /) -> _Trace | None:
    """Has it called after each switch of this thread, in the target; returns the former one."""

def enable_optional_cleanup(flag: object, /) -> None:
    """Nothing: there is nothing to be cleaned up."""

def get_clocks_used_doing_optional_cleanup() -> int | None:
    """0; None when it was switched off."""

def install() -> None:
    """From now on `import greenlet` gets this, in the whole process. Nothing if it does already.

    RuntimeError: greenlet has been imported, and its greenlets cannot become fibers.
    """

def installed() -> bool:
    """Whether `import greenlet` gets this."""

def starts() -> bool:
    """Whether KFIBER_GREENLET=1 is heard by this Python: kfiber is installed in it."""
