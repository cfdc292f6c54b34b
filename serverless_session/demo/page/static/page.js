// The page without reloading: a form is sent as it is, and what changed is taken out of the page that answers. So what
// is seen is what the server made of it, and everything here works, only slower, where scripts do not run.

import { drawStampede } from "./stampede.js";

const SECOND_TAB_ADDS = "honey";
const FIRST_TAB_ADDS = "tea";

const others = "BroadcastChannel" in window ? new BroadcastChannel("the-blue-mug") : null;
const notice = document.getElementById("notice");
let running = 0;

document.documentElement.classList.add("scripted");

function busy(change) {
  running += change;
  document.documentElement.classList.toggle("is-busy", running > 0);
}

async function ask(path, options) {
  busy(1);
  try {
    const answer = await fetch(path, options);
    const text = await answer.text();
    const page = new DOMParser().parseFromString(text, "text/html");
    if (page.getElementById("notice")) show(page);
    else notice.textContent = `The shop answers ${answer.status}: ${text}`;
  } finally {
    busy(-1);
  }
}

function unanswered(error) {
  if (!(error instanceof TypeError)) throw error; // fetch raises it where nobody answers
  notice.className = "notice down";
  notice.textContent = "The shop does not answer. Has the demo ended?";
}

function show(page) {
  const focused = document.activeElement;
  for (const part of document.querySelectorAll("[data-part]")) {
    const fresh = page.getElementById(part.id);
    if (!fresh) continue;
    const held = part.contains(focused);
    const scrolled = part.scrollTop;
    part.replaceWith(document.adoptNode(fresh));
    fresh.scrollTop = scrolled;
    if (part.querySelector("details")?.open) fresh.querySelector("details").open = true;
    if (held) focusAgain(focused.id, fresh);
  }
  const said = page.getElementById("notice");
  notice.className = said.className;
  if (said.textContent) notice.textContent = said.textContent;
}

// Where the focus was, or where to go on from there: never to the top of the page.
function focusAgain(id, part) {
  const same = id && document.getElementById(id);
  const place = same || part.querySelector("[tabindex='-1'], input:not([type='hidden']), button, a") || part;
  place.focus({ preventScroll: true });
}

async function send(form, submitter) {
  const fields = new URLSearchParams(new FormData(form, submitter));
  const path = form.getAttribute("action");
  await (form.method === "get" ? ask(path) : ask(path, { method: "POST", body: fields }));
  others?.postMessage("changed");
}

// Both tabs send the same word along, and the shop lets neither write before both have read.
async function openSecondTab() {
  const word = Array.from(crypto.getRandomValues(new Uint8Array(12)), (byte) => byte.toString(16)).join("");
  window.wordForSecondTab = word;
  if (!window.open("/", "_blank")) {
    notice.textContent = "The browser did not let the shop open a tab. Open one yourself, by the link below.";
    return;
  }
  notice.textContent = "This tab has read the cart, and waits until the second one has too.";
  await addTogether(FIRST_TAB_ADDS, word);
}

async function addTogether(item, meet) {
  await ask("/cart", { method: "POST", body: new URLSearchParams({ item, meet }) });
}

function wordFromOpener() {
  try {
    const word = window.opener?.wordForSecondTab;
    if (word) window.opener.wordForSecondTab = null;
    return word;
  } catch {
    return null; // opened by a page of somebody else
  }
}

document.addEventListener("submit", async (event) => {
  const form = event.target;
  event.preventDefault();
  if (form.dataset.running) return;
  form.dataset.running = "yes";
  try {
    if ("secondTab" in form.dataset) await openSecondTab();
    else if ("stampede" in form.dataset) await drawStampede(form, busy).then(() => ask("/"));
    else await send(form, event.submitter);
  } catch (error) {
    unanswered(error);
  } finally {
    delete form.dataset.running;
  }
});

others?.addEventListener("message", () => ask("/").catch(unanswered));

const word = wordFromOpener();
if (word) addTogether(SECOND_TAB_ADDS, word).catch(unanswered);
