// A page in headless Chromium, driven by playwright-core: a line of JSON with a command comes on stdin, a line with its
// value or error goes to stdout. See browser.py. Arguments: the folder with node_modules, and Chromium's path.
import { createRequire } from "node:module";
import { join } from "node:path";
import { createInterface } from "node:readline";

const [folder, executablePath] = process.argv.slice(2);
const { chromium } = createRequire(join(folder, "package.json"))("playwright-core");
const PATIENCE = 60_000;

const browser = await chromium.launch({ executablePath, headless: true });
let page, told;

// A visitor who was never here: nothing is left of the last page.
async function newPage(size) {
  await page?.context().close();
  const context = await browser.newContext({ viewport: size, locale: "en-US" });
  // Loopback only: what the page would ask of other machines it does not get.
  await context.route((url) => url.hostname !== "127.0.0.1", (route) => route.abort());
  page = await context.newPage();
  page.setDefaultTimeout(PATIENCE);
  told = [];
  page.on("console", (message) => {
    if (["error", "warning"].includes(message.type()))
      told.push({ kind: message.type(), text: message.text(), at: message.location().url });
  });
  page.on("pageerror", (error) => told.push({ kind: "error", text: error.stack ?? String(error), at: "" }));
  page.on("requestfailed", (request) => {
    const text = request.failure().errorText;
    if (text !== "net::ERR_ABORTED") told.push({ kind: "request", text, at: request.url() }); // the page let go of it
  });
}

const commands = {
  open: async ({ url, size }) => {
    await newPage(size);
    await page.goto(url, { waitUntil: "domcontentloaded" });
    // The graph is asked for last: asked for before it is there, the page complains.
    await page.waitForFunction(() => Object.keys(window.LiteGraph?.registered_node_types ?? {}).length > 100);
    await page.waitForFunction(() => window.app?.extensionManager && (window.app.isGraphReady ?? window.app.graph));
  },
  told: () => told,
  evaluate: ({ source, argument }) => page.evaluate(`(${source})(${JSON.stringify(argument ?? null)})`),
  wait: ({ source, argument, seconds }) =>
    page
      .waitForFunction(`(${source})(${JSON.stringify(argument ?? null)})`, null, { timeout: seconds * 1000, polling: 100 })
      .then((handle) => handle.jsonValue()),
  click: ({ selector, button, twice }) =>
    page.locator(selector).first()[twice ? "dblclick" : "click"]({ button: button ?? "left" }),
  clickAt: ({ x, y, button, twice }) => page.mouse[twice ? "dblclick" : "click"](x, y, { button: button ?? "left" }),
  hover: ({ selector }) => page.locator(selector).first().hover(),
  moveTo: ({ x, y }) => page.mouse.move(x, y, { steps: 5 }),
  press: ({ key }) => page.keyboard.press(key),
  type: ({ text }) => page.keyboard.type(text),
  fill: ({ selector, text }) => page.locator(selector).first().fill(text),
  texts: ({ selector }) => page.locator(selector).allInnerTexts(),
  // A canvas that was shown a moment ago does not hear the first clicks.
  openSearch: async ({ x, y, selector }) => {
    for (const patience of [2_000, 2_000, 5_000, 10_000, PATIENCE]) {
      await page.mouse.dblclick(x, y);
      if (await page.locator(selector).first().waitFor({ timeout: patience }).then(() => true, () => false)) return;
    }
    throw new Error("a double click on the canvas opens no search");
  },
  screenshot: async ({ path, clip, selector, quality }) => {
    const options = { path, ...(quality ? { type: "jpeg", quality } : {}) };
    await (selector ? page.locator(selector).first().screenshot(options) : page.screenshot({ ...options, clip }));
  },
};

for await (const line of createInterface({ input: process.stdin })) {
  const { name, ...command } = JSON.parse(line);
  const answer = await Promise.resolve()
    .then(() => commands[name](command))
    .then((value) => ({ value: value ?? null }))
    .catch((error) => ({ error: String(error.message ?? error) }));
  process.stdout.write(JSON.stringify(answer) + "\n");
}
await browser.close();
