// Shows a page in Chromium at several widths and colour schemes. browser.py calls it and reads its output.
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";

const { url, browser: executablePath, views } = JSON.parse(readFileSync(0, "utf8"));
const require = createRequire(process.cwd() + "/");
const { chromium } = require("playwright-core");
const axe = readFileSync(require.resolve("axe-core/axe.min.js"), "utf8");

const args = [
  "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
  "--disable-component-update", "--disable-sync",
];
// A timeout of 0 is none: a busy machine is slow.
const browser = await chromium.launch({ executablePath, args, timeout: 0 });
const seen = [];
for (const view of views) {
  const page = await browser.newPage({
    colorScheme: view.scheme, viewport: { width: view.width, height: view.height },
  });
  page.setDefaultTimeout(0);
  const complaints = [];
  page.on("console", (message) => complaints.push(message.text()));
  page.on("pageerror", (error) => complaints.push(String(error)));
  page.on("dialog", (dialog) => { complaints.push(`dialog: ${dialog.message()}`); return dialog.dismiss(); });
  await page.goto(url);
  const { over, dark } = await page.evaluate(() => ({
    over: document.documentElement.scrollWidth - innerWidth,
    dark: matchMedia("(prefers-color-scheme: dark)").matches,
  }));
  if (view.picture) await page.screenshot({ path: view.picture });
  await page.evaluate(axe);
  const { violations, passes } = await page.evaluate("axe.run()");
  await page.close();
  const faults = violations.flatMap(({ id, nodes }) => nodes.map((node) => `${id}: ${node.html} ${node.failureSummary}`));
  seen.push({ over, dark, faults, rules: passes.map(({ id }) => id), complaints });
}
await browser.close();
console.log(JSON.stringify(seen));
