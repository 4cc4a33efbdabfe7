// What a run was like, on the node that made it: folded below its widgets, and explained from its context menu.
//
// It comes with the node's output under "cudaspeed" (canvas/last_run.py): a JSON text for each run of the node. Whatever
// an older page lacks is gone without.

import { app } from "../../../scripts/app.js";
import { inUsersLanguage, setting } from "./user.js";

const KEY = "cudaspeed";
const WIDGET = "$$cudaspeed-last-run";
const MARGINS = 20; // pixels, which the page leaves around a widget of ours
const FOLDED = 22;
const MOST = 260;

const WORDS = {
  en: { lastRun: "Last run", explain: "Explain last run", close: "Close" },
  zh: { lastRun: "上次运行", explain: "解释上次运行", close: "关闭" },
};

const STYLE = `
.cudaspeed-last-run { font: 11px/1.45 sans-serif; color: var(--input-text, #ddd); overflow: auto; height: 100%; }
.cudaspeed-last-run summary { cursor: pointer; line-height: 22px; color: var(--descrip-text, #999); }
.cudaspeed-last-run table { border-spacing: 0; }
.cudaspeed-last-run th { text-align: left; font-weight: normal; vertical-align: top; padding-right: 8px;
  white-space: nowrap; color: var(--descrip-text, #999); }
.cudaspeed-last-run td, .cudaspeed-explained p { overflow-wrap: anywhere; user-select: text; }
.cudaspeed-explained { max-width: min(640px, 90vw); font: 14px/1.5 sans-serif; padding: 20px; border-radius: 8px;
  border: 1px solid var(--border-color, #4e4e4e); color: var(--input-text, #ddd);
  background: var(--comfy-menu-bg, #353535); }
.cudaspeed-explained::backdrop { background: rgba(0, 0, 0, 0.5); }
.cudaspeed-explained h1 { font-size: 15px; margin: 0 0 10px; }
.cudaspeed-explained p { margin: 0 0 8px; }
`;

const words = () => inUsersLanguage(WORDS);

function element(name, text, parent) {
  const made = document.createElement(name);
  made.textContent = text ?? "";
  parent?.append(made);
  return made;
}

/** The runs that an output tells of; none where it is not ours, or not as it was meant. */
function runsOf(output) {
  const texts = output?.[KEY];
  if (!Array.isArray(texts)) return [];
  return texts.flatMap((text) => {
    try {
      const run = JSON.parse(text);
      return Array.isArray(run.facts) && Array.isArray(run.explained) ? [run] : [];
    } catch {
      return [];
    }
  });
}

/** Table rows of the runs, each under its summary. */
function fill(details, runs) {
  details.replaceChildren();
  element("summary", runs.length > 1 ? `${words().lastRun} (${runs.length})` : words().lastRun, details);
  const table = element("table", "", details);
  for (const run of runs) {
    const line = element("td", run.summary, element("tr", "", table));
    line.colSpan = 2;
    for (const [name, value] of run.facts) {
      const row = element("tr", "", table);
      element("th", name, row);
      element("td", value, row);
    }
  }
}

function heightOf(details) {
  const table = details.open ? (details.querySelector("table")?.scrollHeight ?? 0) + 4 : 0;
  return Math.min(MOST, FOLDED + table) + MARGINS;
}

/** At least as tall as what is on it. Where the page draws nodes as HTML it sees to that itself, and computeSize would
 * count what is folded away. */
function resize(node, height) {
  const least = setting("Comfy.VueNodes.Enabled") ? 0 : (node.computeSize?.()[1] ?? 0);
  node.setSize?.([node.size[0], Math.max(least, height)]);
}

/** The widget that holds the summary, made when there is something to show. */
function widgetOf(node) {
  const there = node.widgets?.find((widget) => widget.name === WIDGET);
  if (there || typeof node.addDOMWidget !== "function") return there;
  const box = element("div");
  box.className = "cudaspeed-last-run";
  const details = element("details", "", box);
  let before = FOLDED + MARGINS;
  const widget = node.addDOMWidget(WIDGET, "cudaspeed-last-run", box, {
    serialize: false,
    hideOnZoom: false,
    getMinHeight: () => heightOf(details),
    getMaxHeight: () => heightOf(details),
  });
  widget.serialize = false;
  let height; // of the node before it is folded or unfolded: the page may have made room when that is told
  details.addEventListener("click", () => {
    height = node.size[1];
  });
  details.addEventListener("toggle", () => {
    const grown = heightOf(details) - before;
    before += grown;
    resize(node, (height ?? node.size[1]) + grown);
    height = undefined;
    node.setDirtyCanvas?.(true, true);
  });
  resize(node, node.size[1]);
  return widget;
}

function show(node, output) {
  const runs = runsOf(output);
  if (!node || !runs.length) return;
  node.cudaspeedRuns = runs;
  const details = widgetOf(node)?.element?.querySelector("details");
  if (details) fill(details, runs);
  node.setDirtyCanvas?.(true, true);
}

function explain(node) {
  const dialog = element("dialog", "", document.body);
  dialog.className = "cudaspeed-explained";
  for (const run of node.cudaspeedRuns) {
    element("h1", run.summary, dialog);
    for (const sentence of run.explained) element("p", sentence, dialog);
  }
  const close = element("button", words().close, dialog);
  close.addEventListener("click", () => dialog.close());
  dialog.addEventListener("close", () => dialog.remove());
  dialog.showModal();
}

function menuItems(node) {
  return node.cudaspeedRuns ? [{ content: words().explain, callback: () => explain(node) }] : [];
}

/** The node that an output belongs to, by its id in the page's outputs ("7", or "a subgraph's:7"). */
function nodeOf(id) {
  const graph = app.rootGraph ?? app.graph;
  const [inner, outer] = String(id).split(":").reverse();
  const place = outer ? graph?.subgraphs?.get?.(outer) : graph;
  return place?.getNodeById?.(inner) ?? place?.getNodeById?.(Number(inner));
}

app.registerExtension({
  name: "cudaspeed.summary",

  setup() {
    element("style", STYLE, document.head);
  },

  beforeRegisterNodeDef(nodeType, nodeData) {
    if (!/CUDAspeed/.test(nodeData?.name)) return;
    const executed = nodeType.prototype.onExecuted;
    nodeType.prototype.onExecuted = function (output, ...more) {
      executed?.call(this, output, ...more);
      show(this, output);
    };
    if (typeof app.collectNodeMenuItems === "function") return; // asks getNodeMenuItems below
    const options = nodeType.prototype.getExtraMenuOptions;
    nodeType.prototype.getExtraMenuOptions = function (canvas, menu, ...more) {
      const given = options?.call(this, canvas, menu, ...more);
      menu.push(...menuItems(this));
      return given;
    };
  },

  getNodeMenuItems: menuItems,

  // of a workflow that is come back to: its outputs are the page's to keep
  onNodeOutputsUpdated(outputs) {
    for (const [id, output] of Object.entries(outputs ?? {})) show(nodeOf(id), output);
  },
});
