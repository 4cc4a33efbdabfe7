"""What the original pack saved, where ours opens it, and where that pack is there itself."""

from __future__ import annotations

import pytest
from browser import Browser

_OPENED = """([inputs, values]) => {
  class Node { configure(saved) { this.values = saved.widgets_values; } }
  const ours = app.extensions.find(({ name }) => name === "cudaspeed.migrate");
  ours.beforeRegisterNodeDef(Node, { name: "ImageUpscaleWithModelCUDAspeedFixed", input: { required: inputs } });
  const node = new Node();
  node.configure({ widgets_values: values });
  return node.values;
}"""
SAVED = ["enable", "auto", 512, 32, "enable", "balanced", False, 2]


@pytest.mark.parametrize(("inputs", "opened"), [({}, [*SAVED[:6], 2]), ({"enable_debug": ["BOOLEAN", {}]}, SAVED)])
def test_the_value_that_is_no_more_is_left_out_and_only_of_our_node(
    page: Browser, inputs: dict[str, list[object]], opened: list[object]
) -> None:
    assert page.evaluate(_OPENED, [inputs, SAVED]) == opened
