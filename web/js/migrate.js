// Workflows that the original pack saved with `enable_debug` before `batch_size`: its value is left out, so that the
// ones behind it come where they belong.

import { app } from "../../../scripts/app.js";

const NODE = "ImageUpscaleWithModelCUDAspeedFixed";
const DEBUG = 6; // its place among the values
const USUAL_MODE = "auto"; // of compile_mode, the widget after batch_size

// `values` as today's widgets have them. Seven values, or more, of which the seventh is a number, are today's already.
export function migrated(values) {
  if (!Array.isArray(values) || typeof values[DEBUG] !== "boolean") return values;
  const now = [...values];
  if (values.length <= DEBUG + 2) {
    now.splice(DEBUG, 1); // as it was saved
  } else if (typeof values[DEBUG + 1] === "number") {
    now.splice(DEBUG, 2, values[DEBUG + 1], USUAL_MODE); // opened and saved again without this script
  } else {
    now[DEBUG] = 1;
  }
  return now;
}

app.registerExtension({
  name: "cudaspeed.migrate",
  beforeRegisterNodeDef(nodeType, nodeData) {
    const configure = nodeType?.prototype?.configure;
    if (nodeData?.name !== NODE || typeof configure !== "function") return;
    nodeType.prototype.configure = function (saved, ...more) {
      const values = migrated(saved?.widgets_values);
      return configure.call(this, values === saved?.widgets_values ? saved : { ...saved, widgets_values: values }, ...more);
    };
  },
});
