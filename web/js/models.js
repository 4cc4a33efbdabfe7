// Scale and architecture in the lists of models: "4x-UltraSharp.pth · x4 ESRGAN". Only what is shown changes; the
// values stay file names.

import { app } from "../../../scripts/app.js";

const NODES = ["UpscaleModelLoaderCUDAspeed", "UpscaleImageWithModelCUDAspeed"];
const WIDGET = "model_name";

let labels = {};

function learn(nodeData) {
  const input = nodeData?.input?.required?.[WIDGET];
  labels = { ...labels, ...input?.[1]?.cudaspeed_labels };
}

const labelled = (name) => (labels[name] ? `${name} · ${labels[name]}` : (name ?? ""));

// The menu that a canvas makes of labels has no filter, and hangs over the page's end: it is made of names, and the
// labels are written over them.
function menuOfNames(widget) {
  const { onClick } = widget;
  if (typeof onClick !== "function") return;
  widget.onClick = function (...click) {
    const { getOptionLabel } = this.options;
    this.options.getOptionLabel = undefined;
    try {
      return onClick.apply(this, click);
    } finally {
      this.options.getOptionLabel = getOptionLabel;
      const entries = [...document.querySelectorAll(".litecontextmenu")].at(-1)?.querySelectorAll(".litemenu-entry");
      for (const entry of entries ?? []) if (labels[entry.textContent]) entry.textContent = labelled(entry.textContent);
    }
  };
}

app.registerExtension({
  name: "cudaspeed.models",
  beforeRegisterNodeDef(nodeType, nodeData) {
    if (NODES.includes(nodeData?.name)) learn(nodeData);
  },
  refreshComboInNodes(defs) {
    for (const name of NODES) learn(defs?.[name]);
  },
  nodeCreated(node) {
    if (!NODES.includes(node?.comfyClass)) return;
    const widget = node.widgets?.find((one) => one.name === WIDGET);
    if (!widget?.options) return;
    widget.options.getOptionLabel = labelled;
    menuOfNames(widget);
  },
});
