// Workflows that the original pack saved with `enable_debug` before `batch_size`: its value is left out, so that the
// ones behind it come where they belong.

import { app } from "../../../scripts/app.js";

const NODE = "ImageUpscaleWithModelCUDAspeedFixed";
const DEBUG = "enable_debug";
const PLACE = 6; // its, among the values
const USUAL_MODE = "auto"; // of compile_mode, the widget after batch_size

// `values` as today's widgets have them. Seven values, or more, of which the seventh is a number, are today's already.
export function migrated(values) {
  if (!Array.isArray(values) || typeof values[PLACE] !== "boolean") return values;
  const now = [...values];
  if (values.length <= PLACE + 2) {
    now.splice(PLACE, 1); // as it was saved
  } else if (typeof values[PLACE + 1] === "number") {
    now.splice(PLACE, 2, values[PLACE + 1], USUAL_MODE); // opened and saved again without this script
  } else {
    now[PLACE] = 1;
  }
  return now;
}

// Where the original pack is installed, too, and has the id, the node is its own, and so are the values.
function hasDebug({ input }) {
  return DEBUG in { ...input?.required, ...input?.optional };
}

app.registerExtension({
  name: "cudaspeed.migrate",
  beforeRegisterNodeDef(nodeType, nodeData) {
    const configure = nodeType?.prototype?.configure;
    if (nodeData?.name !== NODE || typeof configure !== "function" || hasDebug(nodeData)) return;
    nodeType.prototype.configure = function (saved, ...more) {
      const values = migrated(saved?.widgets_values);
      return configure.call(this, values === saved?.widgets_values ? saved : { ...saved, widgets_values: values }, ...more);
    };
  },
});
