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
    widget.options.getOptionLabel = (name) => (labels[name] ? `${name} · ${labels[name]}` : (name ?? ""));
  },
});
