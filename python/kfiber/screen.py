# SPDX-License-Identifier: MIT
"""`kfiber top` on a terminal."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import ClassVar

from textual.app import App, ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import VerticalScroll
from textual.screen import ModalScreen
from textual.widgets import DataTable, Footer, Input, Static

from kfiber import rates, render
from kfiber.errors import KfiberError
from kfiber.info import FiberInfo
from kfiber.rates import Rate


class Details(ModalScreen[None]):
    """All that is known of one fiber."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape,q,enter", "dismiss", "Back")]

    def __init__(self, text: str) -> None:
        super().__init__()
        self.text = text

    def compose(self) -> ComposeResult:
        """The text, which can be scrolled."""
        yield VerticalScroll(Static(self.text, markup=False))
        yield Footer()


class Screen(App[None]):
    """A table that renews itself. `look` gives new rates and `fibers` what they were made from."""

    TITLE = "kfiber top"
    ENABLE_COMMAND_PALETTE = False
    CSS = "Input { display: none; } Input.shown { display: block; }"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("q", "quit", "Quit"),
        Binding("s", "sort", "Sort"),
        Binding("n", "group", "By name"),
        Binding("slash", "filter", "Filter", key_display="/"),
        Binding("space", "pause", "Pause"),
    ]

    def __init__(
        self,
        look: Callable[[], list[Rate]],
        fibers: Callable[[], Sequence[FiberInfo]],
        *,
        interval: float,
        looks: int | None = None,
        by_name: bool = False,
        sort: str = "share",
        match: str = "",
    ) -> None:
        super().__init__()
        self._look = look
        self._fibers = fibers
        self._interval = interval
        self._looks = looks
        self._by_name = by_name
        self._sort = sort
        self._match = match
        self._paused = False
        self._rates: list[Rate] = []
        self.error: KfiberError | None = None

    def compose(self) -> ComposeResult:
        """A line that says what is shown, the table, the filter's field, the keys."""
        yield Static(id="status", markup=False)
        yield DataTable[str](cursor_type="row", zebra_stripes=True)
        yield Input(placeholder="only names that have this in them", value=self._match)
        yield Footer()

    def on_mount(self) -> None:
        """Columns, and the clock."""
        self.query_one(DataTable).add_columns(*render.RATE_COLUMNS)
        self.query_one(DataTable).focus()
        self.set_interval(self._interval, self._renew)
        self._show()

    def _renew(self) -> None:
        if self._paused:
            return
        try:
            self._rates = self._look()
        except KfiberError as error:
            self.error = error
            self.exit()
            return
        self._show()
        if self._looks is not None:
            self._looks -= 1
            if self._looks <= 0:
                self.exit()

    def _show(self) -> None:
        lines = rates.by_name(self._rates) if self._by_name else self._rates
        lines = rates.arranged(lines, sort=self._sort, match=self._match)
        total = sum(rate.share for rate in lines)
        processes = len({rate.pid for rate in lines})
        self.query_one("#status", Static).update(
            f"{len(self._rates)} fibers of {processes} processes, {100 * total:.1f} % "
            f"of a processor; sorted by {self._sort}"
            + (f"; names with {self._match!r}" if self._match else "")
            + ("; paused" if self._paused else "")
        )
        table = self.query_one(DataTable)
        here = table.cursor_row
        table.clear()
        for rate in lines:
            table.add_row(*render.rate_row(rate), key=f"{rate.pid} {rate.id}")
        if lines:
            table.move_cursor(row=min(here, len(lines) - 1))

    def action_sort(self) -> None:
        """The next order."""
        orders = [*rates.SORTS]
        self._sort = orders[(orders.index(self._sort) + 1) % len(orders)]
        self._show()

    def action_group(self) -> None:
        """By name, or by fiber."""
        self._by_name = not self._by_name
        self._show()

    def action_pause(self) -> None:
        """What is there stays, or goes on."""
        self._paused = not self._paused
        self._show()

    def action_filter(self) -> None:
        """The field for the filter appears; Enter ends it."""
        field = self.query_one(Input)
        field.add_class("shown")
        field.focus()

    def on_input_changed(self, event: Input.Changed) -> None:
        """The filter follows each key."""
        self._match = event.value
        self._show()

    def on_input_submitted(self) -> None:
        """Back to the table."""
        self.query_one(Input).remove_class("shown")
        self.query_one(DataTable).focus()

    def on_data_table_row_selected(self, event: DataTable.RowSelected) -> None:
        """Enter: all about that fiber."""
        pid, number = map(int, str(event.row_key.value).split())
        for fiber in self._fibers():
            if (fiber.pid, fiber.id) == (pid, number):
                lines = [f"{name}: {value}" for name, value in dataclasses.asdict(fiber).items()]
                self.push_screen(Details("\n".join(lines)))
                return
