// Drives one headless Chromium with a fake camera: pages of calls are opened, read and closed by lines on stdin, and each
// line is answered by one line of JSON on stdout. The browser ends with stdin.
//
//   open NAME HASH   a page with these settings behind `#`
//   read NAME        what its calls tell
//   restart NAME     new ICE credentials for what it plays
//   choose NAME RID  another layer of what it plays
//   close NAME
//
// Arguments: the page's file, and the folder with node_modules. The page is served from 127.0.0.1, as a camera needs a
// secure context, and speaks with its engine across origins.
import { createRequire } from 'node:module';
import { createServer } from 'node:http';
import { createInterface } from 'node:readline';
import { readFileSync } from 'node:fs';

const [file, modules] = process.argv.slice(2);
const { chromium } = createRequire(`${modules}/`)('playwright-core');
const html = readFileSync(file);
const server = createServer((request, response) => {
  response.setHeader('Content-Type', 'text/html; charset=utf-8');
  response.end(html);
});
await new Promise(ready => server.listen(0, '127.0.0.1', ready));
const origin = `http://127.0.0.1:${server.address().port}`;

const browser = await chromium.launch({
  executablePath: process.env.EYOT_CHROMIUM ?? '/usr/bin/chromium',
  args: [
    '--no-sandbox', '--disable-gpu', '--use-fake-device-for-media-stream', '--use-fake-ui-for-media-stream',
    '--disable-features=WebRtcHideLocalIpsWithMdns', '--autoplay-policy=no-user-gesture-required',
    '--allow-loopback-in-peer-connection', '--disable-background-timer-throttling', '--disable-renderer-backgrounding',
    '--disable-backgrounding-occluded-windows',
  ],
});
const context = await browser.newContext();
const pages = new Map();

async function obey([verb, name, hash]) {
  if (verb === 'open') {
    const page = await context.newPage();
    page.on('pageerror', error => console.error(`${name}: ${error}`));
    page.loads = 0;
    page.on('load', () => page.loads++);
    pages.set(name, page);
    await page.goto(`${origin}/#${hash}`);
    return {};
  }
  const page = pages.get(name);
  if (verb === 'close') {
    pages.delete(name);
    // Its sessions are deleted by the page itself.
    await page.close({ runBeforeUnload: false });
    return {};
  }
  if (verb === 'restart') {
    await page.evaluate(() => globalThis.call.playing.restart());
    return {};
  }
  if (verb === 'choose') {
    await page.evaluate(rid => globalThis.call.playing.choose(rid), hash);
    return {};
  }
  const calls = await page.evaluate(async () => {
    const read = async call => ({ ...call.told, ...(call.peer ? await call.received() : {}) });
    return { publishing: await read(call.publishing), playing: await read(call.playing) };
  });
  return { ...calls, loads: page.loads };
}

console.log(JSON.stringify({ version: browser.version() }));
for await (const line of createInterface({ input: process.stdin })) {
  const answer = await obey(line.split(' ')).catch(error => ({ error: String(error) }));
  console.log(JSON.stringify(answer));
}
await browser.close();
server.close();
