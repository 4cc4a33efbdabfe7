// A new node is as tall as what is seen of it at first. The page makes room for what it folds away, too, and leaves it
// empty; where it draws nodes on the canvas, it folds nothing away.

import { app } from "../../../scripts/app.js";

app.registerExtension({
  name: "cudaspeed.folded",
  nodeCreated(node) {
    if (!node.constructor?.nodeData?.name?.includes("CUDAspeed")) return;
    if (!app.extensionManager?.setting?.get?.("Comfy.VueNodes.Enabled")) return;
    const folded = (node.widgets ?? []).filter((widget) => widget.options?.advanced);
    const row = window.LiteGraph?.NODE_WIDGET_HEIGHT ?? 0;
    if (folded.length) node.setSize?.([node.size[0], node.size[1] - folded.length * row]);
  },
});
