// Settings -> CUDAspeed, and the commands. Names and tooltips here are English; others come from locales/, under
// "CUDAspeed_Preview" in settings.json and "CUDAspeed_ToggleMonitor" in commands.json.

import { app } from "../../../scripts/app.js";
import { api } from "../../../scripts/api.js";
import { ITEMS, update } from "./monitor.js";
import { inUsersLanguage, setting } from "./user.js";

// What stands within the settings that we draw ourselves, which the page does not translate.
const WORDS = {
  en: { clear: "Clear", cleared: "Compiled models cleared", failed: "Not cleared", count: (n) => `${n} compiled` },
  zh: { clear: "清空", cleared: "已清空编译好的模型", failed: "未能清空", count: (n) => `已编译 ${n} 个` },
};

const words = () => inUsersLanguage(WORDS);

const megabytes = (bytes) => `${(bytes / 1e6).toFixed(1)} MB`;

async function ask(path, options) {
  const answer = await api.fetchApi(path, options);
  const told = await answer.json();
  if (!answer.ok) throw new Error(told.error ?? answer.statusText);
  return told;
}

async function clearCompiledModels() {
  const { cleared, failed } = words();
  const toast = (severity, summary, detail) =>
    app.extensionManager?.toast?.add?.({ severity, summary, detail, life: 5000 });
  try {
    const headers = { "Content-Type": "application/json" };
    const { freed } = await ask("/cudaspeed/cache/clear", { method: "POST", headers, body: "{}" });
    toast("success", cleared, megabytes(freed));
  } catch (error) {
    toast("error", failed, error.message);
  }
}

/** How much is compiled, and a button to clear it. */
function compiledModels() {
  const told = document.createElement("span");
  const button = document.createElement("button");
  const row = document.createElement("div");
  row.style.cssText = "display: flex; gap: 12px; align-items: center; justify-content: flex-end";
  button.className = "p-button p-component p-button-secondary p-button-sm";
  button.type = "button";
  button.textContent = words().clear;
  row.append(told, button);
  const look = async () => {
    try {
      const { models, bytes } = await ask("/cudaspeed/cache");
      told.textContent = `${words().count(models)}, ${megabytes(bytes)}`;
    } catch {
      told.textContent = ""; // nobody knows
    }
  };
  button.onclick = async () => {
    button.disabled = true;
    await clearCompiledModels();
    await look();
    button.disabled = false;
  };
  look();
  return row;
}

/** A box to tick for each of the monitor's items; the value is their keys, with commas between. */
function items(name, set, value) {
  const chosen = new Set(String(value ?? Object.keys(ITEMS)).split(","));
  const row = document.createElement("div");
  row.style.cssText = "display: flex; flex-wrap: wrap; gap: 4px 12px; justify-content: flex-end";
  for (const [item, label] of Object.entries(ITEMS)) {
    const box = document.createElement("input");
    box.type = "checkbox";
    box.checked = chosen.has(item);
    box.onchange = () => {
      if (box.checked) chosen.add(item);
      else chosen.delete(item);
      set(Object.keys(ITEMS).filter((known) => chosen.has(known)).join(","));
    };
    const line = document.createElement("label");
    line.append(box, ` ${label}`);
    row.append(line);
  }
  return row;
}

/** The page tells of a change before it keeps it. */
const soon = () => setTimeout(update);

// The page shows first what has the highest sortOrder, groups as well.
const SETTINGS = [
  {
    id: "CUDAspeed.Preview",
    category: ["CUDAspeed", "General", "Preview"],
    name: "Show the picture while it is upscaled",
    tooltip: "A small picture on the node that fills in, tile by tile.",
    type: "boolean",
    defaultValue: true,
    sortOrder: 60,
  },
  {
    id: "CUDAspeed.Language",
    category: ["CUDAspeed", "General", "Language"],
    name: "Language of texts on the nodes",
    tooltip: "Of what is told during and after a run, and of errors. Automatic is the language of the page.",
    type: "combo",
    options: [
      { text: "Automatic", value: "auto" },
      { text: "English", value: "en" },
      { text: "中文", value: "zh" },
    ],
    defaultValue: "auto",
    sortOrder: 50,
  },
  {
    id: "CUDAspeed.CompiledModels",
    category: ["CUDAspeed", "General", "CompiledModels"],
    name: "Compiled models",
    tooltip: "What was compiled, and found out about models, is kept on disk. Cleared, it is made anew when it pays.",
    type: compiledModels,
    defaultValue: "",
    sortOrder: 40,
  },
  {
    id: "CUDAspeed.Monitor.Show",
    category: ["CUDAspeed", "Monitor", "Show"],
    name: "Show the monitor in the top bar",
    tooltip: "The load of processor, memory and devices. Nothing is looked at while it is off or the page is hidden.",
    type: "boolean",
    defaultValue: false,
    sortOrder: 30,
    onChange: soon,
  },
  {
    id: "CUDAspeed.Monitor.Items",
    category: ["CUDAspeed", "Monitor", "Items"],
    name: "What it shows",
    tooltip:
      "GPU: the share of time that a device is busy. MFU: the share of its peak that upscaling achieves. What nobody tells is not shown.",
    type: items,
    defaultValue: Object.keys(ITEMS).join(","),
    sortOrder: 20,
    onChange: soon,
  },
  {
    id: "CUDAspeed.Monitor.Rate",
    category: ["CUDAspeed", "Monitor", "Rate"],
    name: "Seconds between two looks",
    type: "slider",
    attrs: { min: 0.25, max: 10, step: 0.25 },
    defaultValue: 0.5,
    sortOrder: 10,
    onChange: soon,
  },
  {
    id: "CUDAspeed.Monitor.Width",
    category: ["CUDAspeed", "Monitor", "Width"],
    name: "Width of each item, in pixels",
    type: "slider",
    attrs: { min: 40, max: 200, step: 4 },
    defaultValue: 72,
    sortOrder: 0,
    onChange: soon,
  },
];

const COMMANDS = [
  {
    id: "CUDAspeed.ToggleMonitor",
    label: "Toggle monitor",
    icon: "pi pi-chart-bar",
    function: () => {
      const shown = setting("CUDAspeed.Monitor.Show") === true;
      return app.extensionManager?.setting?.set?.("CUDAspeed.Monitor.Show", !shown);
    },
  },
  {
    id: "CUDAspeed.ClearCompiledModels",
    label: "Clear compiled models",
    icon: "pi pi-trash",
    function: clearCompiledModels,
  },
];

app.registerExtension({ name: "cudaspeed.settings", settings: SETTINGS, commands: COMMANDS });
