"""Switches and menus that the figures share. They are HTML's own check boxes, menus and sliders,
which the keyboard reaches, too."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any

import numpy as np
import xarray as xr
from bokeh.layouts import column, row
from bokeh.models import (
    CheckboxGroup,
    CustomJS,
    Div,
    GlyphRenderer,
    Model,
    RadioGroup,
    Select,
    UIElement,
)
from bokeh.plotting import figure

from .groups import ANGLES, Group, groups_of
from .page import WIDTH

SHOW = """
const on = boxes.map(box => new Set([box.active].flat().map(i => box.labels[i])))
renderers.forEach((renderer, i) => renderer.visible = names[i].every((name, j) => on[j].has(name)))
"""


def begun(
    results: xr.Dataset | xr.DataTree,
) -> tuple[list[Group], Select, Switches]:
    """What an explorer of angles begins with: the runs by group, the menu of the two angles, and
    the switches of methods and networks.

    Raises:
        WtkitError: for results without angles.
    """
    groups = groups_of(results)
    return groups, quantity_menu(groups), Switches.of(groups)


WRAPPED = ":host .bk-input-group { flex-wrap: wrap }"


class Switches:
    """Check boxes that show and hide what is drawn, one row of them for each kind of name.

    Args:
        kinds: the names of each kind, such as methods and networks.
        first: kinds of which only the first name is on at the start.
        single: kinds of which one name is on at a time.
    """

    def __init__(
        self,
        kinds: Mapping[str, Iterable[str]],
        first: Collection[str] = (),
        single: Collection[str] = (),
    ) -> None:
        self._boxes: list[CheckboxGroup | RadioGroup] = []
        for kind, names in kinds.items():
            labels = list(dict.fromkeys(names))
            active = [0] if kind in first else list(range(len(labels)))
            how: dict[str, Any] = {"labels": labels, "inline": True, "name": kind}
            how |= {"width": WIDTH - 90, "stylesheets": [WRAPPED]}
            self._boxes.append(
                RadioGroup(active=0, **how)
                if kind in single
                else CheckboxGroup(active=active, **how)
            )
        self._renderers: list[GlyphRenderer] = []
        self._names: list[tuple[str, ...]] = []

    @classmethod
    def of(cls, groups: Iterable[Group]) -> Switches:
        """Switches of methods and networks. Only the first network is on, since networks differ in
        their layers."""
        groups = list(groups)
        kinds = {"methods": (g.method for g in groups), "networks": (g.network for g in groups)}
        return cls(kinds, first=["networks"])

    def add(self, names: tuple[str, ...], *renderers: GlyphRenderer) -> None:
        """Show these renderers while all of ``names``, one of each kind, are on."""
        on = [{box.labels[i] for i in np.atleast_1d(box.active)} for box in self._boxes]
        for renderer in renderers:
            renderer.visible = all(name in kind for name, kind in zip(names, on, strict=True))
            self._renderers.append(renderer)
            self._names.append(names)

    def connected(self, *more: CustomJS) -> list[UIElement]:
        """The boxes, once all renderers are added; none for a kind with a single name.

        Args:
            more: run after each change, with the boxes' state as it is then.
        """
        show = CustomJS(
            args={"boxes": self._boxes, "renderers": self._renderers, "names": self._names},
            code=SHOW,
        )
        for box in self._boxes:
            box.js_on_change("active", show, *more)
        return [row(Div(text=f"{box.name}:"), box) for box in self._boxes if len(box.labels) > 1]

    def box(self, kind: str) -> CheckboxGroup | RadioGroup:
        """The boxes of a kind."""
        return next(box for box in self._boxes if box.name == kind)


def quantity_menu(groups: Iterable[Group]) -> Select:
    """A menu of the angles that were recorded, the matrix angle first."""
    recorded = [
        name for name in ANGLES if any(bool(group.runs[name].notnull().any()) for group in groups)
    ]
    options = [(name, ANGLES[name].removesuffix(" (°)")) for name in recorded]
    return Select(options=options, value=recorded[0], width=130, name="quantity")


def stacked(*rows: Model | Iterable[Model]) -> UIElement:
    """Controls above a figure."""
    return column(*(row(*part) if isinstance(part, (list, tuple)) else part for part in rows))


def plain_axes(plot: figure, x: str, y: str) -> None:
    """Label the axes and leave out what is not needed to read them."""
    plot.xaxis.axis_label, plot.yaxis.axis_label = x, y
    plot.toolbar.logo = None
    plot.grid.grid_line_alpha = 0.4


def highest(groups: Iterable[Group]) -> float:
    """The end of an axis of angles in degrees."""
    tops = [float(group.runs[name].max()) for group in groups for name in ANGLES]
    return max([95.0, *(top + 5 for top in tops if np.isfinite(top))])
