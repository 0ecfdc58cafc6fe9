"""web/keep_saved_name.js, in Node.js, on a widget that behaves as the frontend's `useRemoteWidget` does."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest

_SCRIPT = Path(__file__).parents[2] / "web" / "keep_saved_name.js"
_NODE = shutil.which("node")

# What the frontend does: `arrive` is the first reading of the worker's list.
_HARNESS = """
import { extensions } from "./scripts/app.js";
import "./extensions/pack/keep_saved_name.js";

function made(comfyClass, name) {
  const told = [];
  const widget = { name, value: undefined, options: { values: undefined }, callback: (value) => told.push(value) };
  const node = { comfyClass, widgets: [widget] };
  extensions[0].nodeCreated(node);
  return {
    told,
    value: () => widget.value,
    configure(value) { widget.value = value; node.onConfigure?.({}); },
    set(value) { widget.value = value; widget.callback(value); },
    list(values) { widget.options.values = values; },
    arrive(values) { widget.options.values = values; widget.value = values[0]; widget.callback(widget.value); },
  };
}

const LIST = ["a", "b", "c"];
const found = {};
function run(name, steps, node = made("RemoteModelLoader", "model_name")) {
  steps(node);
  found[name] = node.value();
}
run("a new node", (node) => { node.arrive(LIST); });
run("a saved one", (node) => { node.configure("b"); node.arrive(LIST); found.told = node.told.at(-1); });
run("one of another worker", (node) => { node.configure("gone"); node.arrive(LIST); });
run("chosen after loading", (node) => { node.configure("a"); node.arrive(LIST); node.set("c"); });
run("the first one chosen", (node) => { node.configure("b"); node.arrive(LIST); node.set("a"); });
run("set by a script", (node) => { node.set("c"); node.arrive(LIST); });
run("set with a list known", (node) => { node.list(LIST); node.set("c"); node.arrive(LIST); });
run("loaded into the same node", (node) => { node.arrive(LIST); node.configure("b"); node.set("a"); });
const saved = (node) => { node.configure("b"); node.arrive(LIST); };
run("a ControlNet", saved, made("RemoteControlNetLoader", "control_net_name"));
run("another pack's", saved, made("AnotherNode", "model_name"));
console.log(JSON.stringify(found));
"""
_APP = """
export const extensions = [];
export const app = { registerExtension: (extension) => extensions.push(extension) };
"""


@pytest.mark.skipif(_NODE is None, reason="there is no Node.js to run it")
def test_the_model_that_a_workflow_names_stays(tmp_path: Path) -> None:
    folder = tmp_path / "extensions" / "pack"
    folder.mkdir(parents=True)
    shutil.copy(_SCRIPT, folder)
    (tmp_path / "scripts").mkdir()
    (tmp_path / "scripts" / "app.js").write_text(_APP)
    (tmp_path / "package.json").write_text('{"type": "module"}')
    (tmp_path / "main.js").write_text(_HARNESS)
    assert _NODE is not None
    done = subprocess.run([_NODE, "main.js"], cwd=tmp_path, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {
        "a new node": "a",
        "a saved one": "b",
        "told": "b",
        "one of another worker": "gone",
        "chosen after loading": "c",
        "the first one chosen": "a",
        "set by a script": "c",
        "set with a list known": "c",
        "loaded into the same node": "a",
        "a ControlNet": "b",
        "another pack's": "a",
    }
