"""The interactive page of a reward map: rewards computed in advance, looked at with sliders."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import Any

import numpy as np

from local_trainer.lab.figures.map import DIFFERENCE_COLORS, REWARD_COLORS, color_table
from local_trainer.lab.reward_map import RewardLattice, color_range
from local_trainer.page import Page

SPEEDS_MPS = (1.0, 2.0, 3.0, 4.0)
HEADINGS_DEG = (-60.0, -30.0, -15.0, 0.0, 15.0, 30.0, 60.0)
STEERINGS_DEG = (-20.0, 0.0, 20.0)

NUM_CELLS = 4_000
"""Cells of a page: the rewards of all 84 ways of driving take about 1.8 MB a file."""


def with_value(values: Sequence[float], chosen: float) -> tuple[float, ...]:
    """Return ascending values of which the one nearest to a chosen value is replaced by it."""
    nearest = min(values, key=lambda value: abs(value - chosen))
    return tuple(sorted(chosen if value == nearest else value for value in values))


def map_page(
    lattices: Sequence[RewardLattice], speed_mps: float, heading_deg: float, steering_deg: float
) -> Page:
    """Return the page of one reward function, or of two side by side with their difference.

    Args:
        lattices: One or two, on the same cells and for the same values.
        speed_mps: What the sliders show first, like the next two; must be in the lattice.
        heading_deg: Likewise.
        steering_deg: Likewise.
    """
    first = lattices[0]
    grid = first.grid
    names = [lattice.path.name for lattice in lattices]
    direction = "driven against the row order" if grid.is_reversed else "driven in row order"
    page = Page(
        " and ".join(names),
        f"Reward on {grid.track.name}, {direction}; {len(grid):,} places {grid.cell_m:g} m apart",
        width_px=1280 if len(lattices) == 1 else 1800,
    )
    page.section("Reward over the track").markup(_CONTROLS)
    page.markup('<div id="maps"></div>').script(
        _SCRIPT, _data(lattices, (speed_mps, heading_deg, steering_deg)), _CSS
    )
    page.section("What is shown").text(
        "The colour of a place is the reward of a step that ends with the car's reference point "
        "(x and y of the reward function) there. The car looks along the centre line (from the "
        "closest waypoint behind to the one ahead) plus the chosen heading; the arrows show it. "
        "Heading and steering are positive to the left.",
        "progress, steps and sim_time are those of a car that came from the start line at the "
        "chosen speed; there are no objects. One colour scale serves all positions of the "
        "sliders; point at a place for its numbers.",
    )
    return page


def _data(lattices: Sequence[RewardLattice], chosen: tuple[float, float, float]) -> dict[str, Any]:
    first = lattices[0]
    grid, track = first.grid, first.grid.track
    order = -1 if grid.is_reversed else 1
    rewards = [lattice.rewards for lattice in lattices]
    difference = color_range(rewards[1] - rewards[0]) if len(rewards) == 2 else (0.0, 0.0)
    furthest = max(map(abs, difference)) or 1.0
    left_m, right_m, low_m, high_m = grid.extent_m
    return {
        "names": [lattice.path.name for lattice in lattices],
        "axes": [first.speeds_mps, first.headings_deg, first.steerings_deg],
        "chosen": chosen,
        "columns": grid.num_columns,
        "rows": grid.num_rows,
        "cell": grid.cell_m,
        "extent": [left_m, right_m, low_m, high_m],
        "cells": _base64(grid.row * grid.num_columns + grid.column, "<i4"),
        "waypoints": _base64(grid.closest_waypoint, "<i4"),
        "rewards": [_base64(values, "<f4") for values in rewards],
        "limits": color_range(*rewards),
        "furthest": furthest,
        "colors": color_table(REWARD_COLORS),
        "differenceColors": color_table(DIFFERENCE_COLORS),
        "loop": track.is_loop,
        "center": np.round(track.center[::order], 3).tolist(),
        "inner": np.round(track.inner[::order], 3).tolist(),
        "outer": np.round(track.outer[::order], 3).tolist(),
    }


def _base64(values: np.ndarray, dtype: str) -> str:
    return base64.b64encode(np.ascontiguousarray(values, dtype).tobytes()).decode("ascii")


_CONTROLS = """
<div id="controls">
<label>Speed <output></output><input type="range" data-name="speed" data-unit=" m/s"></label>
<label>Heading from the centre line <output></output>
<input type="range" data-name="heading" data-unit="°"></label>
<label>Steering <output></output><input type="range" data-name="steering" data-unit="°"></label>
</div>
<p id="readout">Point at a place.</p>
"""

_CSS = """
#controls { display: grid; grid-template-columns: repeat(auto-fit, minmax(220px, 1fr)); gap: 16px; }
#controls label { color: var(--muted); font-size: .9rem; }
#controls output { color: var(--ink); font-weight: 600; float: right; }
#controls input { width: 100%; margin: 6px 0 0; }
#readout { color: var(--ink); font-variant-numeric: tabular-nums; min-height: 3em;
  margin-top: 12px; }
#maps { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 480px), 1fr));
  gap: 20px; }
#maps h3 { font-size: .95rem; margin: 0 0 6px; overflow-wrap: anywhere; }
#maps h3 span { color: var(--muted); font-weight: 400; font-size: .85rem; margin-left: 8px; }
#maps canvas { display: block; width: 100%; cursor: crosshair; border-radius: 6px;
  background: #eef1f5; touch-action: pan-y; }
.scale { display: grid; grid-template-columns: auto 1fr auto; gap: 8px; align-items: center;
  font-size: .8rem; color: var(--muted); margin-top: 6px; font-variant-numeric: tabular-nums; }
.scale i { height: 12px; border-radius: 3px; }
"""

_SCRIPT = r"""
"use strict";
const data = JSON.parse(document.getElementById("data").textContent);

function decode(text, Kind) {
  const bytes = Uint8Array.from(atob(text), letter => letter.charCodeAt(0));
  return new Kind(bytes.buffer);
}

const cells = decode(data.cells, Int32Array);
const waypoints = decode(data.waypoints, Int32Array);
const rewards = data.rewards.map(text => decode(text, Float32Array));
const cellAt = new Map(Array.from(cells, (place, index) => [place, index]));
const [left, right, low, high] = data.extent;
const size = cells.length;
const inputs = Array.from(document.querySelectorAll("#controls input"));
const readout = document.getElementById("readout");
let pointed = null;

const panels = data.names.map((name, which) => ({
  title: name, colors: data.colors, limits: data.limits,
  value: index => rewards[which][offset() + index],
}));
if (rewards.length === 2) {
  panels.push({
    title: `${data.names[1]} minus ${data.names[0]}`,
    colors: data.differenceColors, limits: [-data.furthest, data.furthest],
    value: index => rewards[1][offset() + index] - rewards[0][offset() + index],
  });
}

function offset() {
  const [i, j, k] = inputs.map(input => Number(input.value));
  return ((i * data.axes[1].length + j) * data.axes[2].length + k) * size;
}

function chosen(axis) { return data.axes[axis][Number(inputs[axis].value)]; }

function short(value) { return Number(value.toPrecision(4)).toString(); }

function build(panel) {
  const box = document.createElement("div");
  const heading = document.createElement("h3");
  heading.textContent = panel.title;
  panel.summary = document.createElement("span");
  heading.append(panel.summary);
  panel.canvas = document.createElement("canvas");
  const scale = document.createElement("div");
  scale.className = "scale";
  const stripe = document.createElement("i");
  const stops = panel.colors.filter((_, i) => i % 15 === 0).map(c => `rgb(${c.join()})`);
  stripe.style.background = `linear-gradient(to right, ${stops.join()})`;
  scale.append(short(panel.limits[0]), stripe, short(panel.limits[1]));
  box.append(heading, panel.canvas, scale);
  document.getElementById("maps").append(box);
  for (const kind of ["pointermove", "pointerdown"]) {
    panel.canvas.addEventListener(kind, event => {
      const frame = panel.canvas.getBoundingClientRect();
      const scale = frame.width / (right - left);
      const x = left + (event.clientX - frame.left) / scale;
      point(x, high - (event.clientY - frame.top) / scale);
    });
  }
  panel.picture = document.createElement("canvas");
  panel.picture.width = data.columns;
  panel.picture.height = data.rows;
}

function point(x, y) {
  const column = Math.floor((x - left) / data.cell), row = Math.floor((y - low) / data.cell);
  const isInside = column >= 0 && column < data.columns && row >= 0;
  const index = isInside ? cellAt.get(row * data.columns + column) : undefined;
  pointed = index === undefined ? null : index;
  draw();
}

function middle(index) {
  const column = cells[index] % data.columns, row = Math.floor(cells[index] / data.columns);
  return [left + (column + 0.5) * data.cell, low + (row + 0.5) * data.cell];
}

function say() {
  if (pointed === null) {
    readout.textContent = "Point at a place on the road or beside it.";
    return;
  }
  const [x, y] = middle(pointed);
  const values = panels.map(panel => `${panel.title} ${short(panel.value(pointed))}`);
  readout.textContent = `x ${x.toFixed(3)} m · y ${y.toFixed(3)} m · closest waypoint `
    + `${waypoints[pointed]} · ${values.join(" · ")}`;
}

function paint(panel) {
  const context = panel.picture.getContext("2d");
  const image = context.createImageData(data.columns, data.rows);
  const [from, to] = panel.limits;
  const factor = to > from ? 255 / (to - from) : 0;
  let lowest = Infinity, highest = -Infinity, sum = 0;
  for (let index = 0; index < size; index++) {
    const value = panel.value(index);
    lowest = Math.min(lowest, value);
    highest = Math.max(highest, value);
    sum += value;
    const step = Math.max(0, Math.min(255, Math.round((value - from) * factor)));
    const row = data.rows - 1 - Math.floor(cells[index] / data.columns);
    image.data.set(panel.colors[step], 4 * (row * data.columns + cells[index] % data.columns));
    image.data[4 * (row * data.columns + cells[index] % data.columns) + 3] = 255;
  }
  context.putImageData(image, 0, 0);
  panel.summary.textContent =
    `mean ${short(sum / size)}, ${short(lowest)} to ${short(highest)}`;
}

function draw() {
  for (const panel of panels) drawPanel(panel);
  say();
}

function drawPanel(panel) {
  const canvas = panel.canvas, ratio = window.devicePixelRatio || 1;
  const width = canvas.clientWidth;
  const scale = width * ratio / (right - left);
  canvas.width = width * ratio;
  canvas.height = (high - low) * scale;
  const context = canvas.getContext("2d");
  const place = ([x, y]) => [(x - left) * scale, (high - y) * scale];
  context.imageSmoothingEnabled = false;
  context.drawImage(panel.picture, 0, 0, canvas.width, canvas.height);
  for (const border of [data.inner, data.outer]) {
    trace(context, border.map(place), "white", 3 * ratio);
    trace(context, border.map(place), "black", ratio);
  }
  context.setLineDash([6 * ratio, 6 * ratio]);
  trace(context, data.center.map(place), "rgba(255,255,255,.8)", ratio);
  context.setLineDash([]);
  trace(context, [data.inner[0], data.outer[0]].map(place), "#d62839", 3 * ratio);
  drawWaypoints(context, place, scale, ratio);
  if (pointed !== null) {
    const [x, y] = place(middle(pointed)), half = data.cell * scale / 2 + 2 * ratio;
    context.lineWidth = 2 * ratio;
    context.strokeStyle = "#ff2d95";
    context.strokeRect(x - half, y - half, 2 * half, 2 * half);
  }
}

function drawWaypoints(context, place, scale, ratio) {
  const turn = chosen(1) * Math.PI / 180, last = data.center.length - 1;
  context.font = `${11 * ratio}px system-ui, sans-serif`;
  context.textAlign = "center";
  context.textBaseline = "middle";
  for (let k = 0; k < (data.loop ? last - 4 : last); k += 10) {
    const here = data.center[k], ahead = data.center[k + 1];
    const yaw = Math.atan2(ahead[1] - here[1], ahead[0] - here[0]) + turn;
    const outward = [data.outer[k][0] - here[0], data.outer[k][1] - here[1]];
    const half = Math.hypot(...outward), length = 0.45 * half;
    const tip = [here[0] + length * Math.cos(yaw), here[1] + length * Math.sin(yaw)];
    for (const [color, line] of [["black", 4], ["white", 2]]) {
      trace(context, [here, tip].map(place), color, line * ratio);
      for (const side of [2.6, -2.6]) {
        const barb = [tip[0] + 0.4 * length * Math.cos(yaw + side),
          tip[1] + 0.4 * length * Math.sin(yaw + side)];
        trace(context, [tip, barb].map(place), color, line * ratio);
      }
    }
    const away = 1 + 12 * ratio / scale / half;
    const [x, y] = place([here[0] + away * outward[0], here[1] + away * outward[1]]);
    context.lineWidth = 3 * ratio;
    context.strokeStyle = "white";
    context.strokeText(k, x, y);
    context.fillStyle = "black";
    context.fillText(k, x, y);
  }
}

function trace(context, points, color, width) {
  context.beginPath();
  points.forEach(([x, y], i) => i ? context.lineTo(x, y) : context.moveTo(x, y));
  context.strokeStyle = color;
  context.lineWidth = width;
  context.stroke();
}

function show() {
  inputs.forEach((input, axis) => {
    const value = chosen(axis);
    const sign = axis > 0 && value > 0 ? "+" : "";
    input.parentNode.querySelector("output").textContent = sign + value + input.dataset.unit;
  });
  panels.forEach(paint);
  draw();
}

function readHash() {
  const wanted = new URLSearchParams(location.hash.slice(1));
  inputs.forEach((input, axis) => {
    const value = wanted.has(input.dataset.name)
      ? Number(wanted.get(input.dataset.name)) : data.chosen[axis];
    const distances = data.axes[axis].map(one => Math.abs(one - value));
    input.value = Math.max(0, distances.indexOf(Math.min(...distances)));
  });
  show();
  if (wanted.has("x") && wanted.has("y")) point(Number(wanted.get("x")), Number(wanted.get("y")));
}

function writeHash() {
  const parts = inputs.map((input, axis) => `${input.dataset.name}=${chosen(axis)}`);
  try {
    history.replaceState(null, "", "#" + parts.join("&"));
  } catch (error) {
    // A browser may refuse it for a file; the sliders work all the same.
  }
}

inputs.forEach((input, axis) => {
  input.min = 0;
  input.max = data.axes[axis].length - 1;
  input.addEventListener("input", () => { writeHash(); show(); });
});
panels.forEach(build);
readHash();
window.addEventListener("hashchange", readHash);
window.addEventListener("resize", draw);
"""
