// Fifty requests, drawn while they run: each a line from the moment it asks to the moment it is answered, and below
// them, on the same clock, the computations.

const MARGIN = 8;
const TOP = 8;
const LANE = 3.4;
const WORK_TOP = 190;
const WORK_HEIGHT = 12;
const AXIS = 214;
const HEIGHT = 236;
const SVG = "http://www.w3.org/2000/svg";

const calm = window.matchMedia("(prefers-reduced-motion: reduce)");
const byId = (id) => document.getElementById(id);

export async function drawStampede(form, busy) {
  const drawing = new Drawing();
  const result = byId("stampede-result");
  result.textContent = "";
  busy(1);
  try {
    const answer = await fetch("/stampede", {
      method: "POST",
      headers: { accept: "application/x-ndjson" },
      body: new URLSearchParams(new FormData(form)),
    });
    for await (const happening of linesOf(answer.body)) {
      drawing.take(happening);
      if (happening.what === "over") result.textContent = inWords(happening);
    }
  } finally {
    drawing.end();
    busy(-1);
  }
}

async function* linesOf(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const lines = (rest + value).split("\n");
    rest = lines.pop();
    for (const line of lines) yield JSON.parse(line);
  }
}

function inWords({ requests, answered, computations, seconds, trips, answers }) {
  const kinds = Object.entries(answers).map(([kind, times]) => `${times} ${kind === "error" ? "without the store" : kind}`);
  return `${answered} of ${requests} requests answered, ${computations} computed, in ${seconds} s and ${trips} trips`
    + ` (${kinds.join(", ")}).`;
}

class Drawing {
  constructor() {
    this.requests = new Map();
    this.works = new Map();
    this.counts = { asked: 0, answered: 0, computed: 0 };
    this.span = 1;
    this.now = 0;
    this.began = null;
    this.chart = byId("chart");
    for (const old of this.chart.querySelectorAll("g")) old.remove();
    this.axis = this.group("axis");
    this.lines = this.group("requests");
    this.bars = this.group("works");
    byId("drawing").hidden = false;
    this.width = this.chart.clientWidth; // one unit is one pixel, so that text is as large as elsewhere
    this.chart.setAttribute("viewBox", `0 0 ${this.width} ${HEIGHT}`);
    this.count();
    this.drawAxis();
  }

  group(name) {
    const made = document.createElementNS(SVG, "g");
    made.setAttribute("class", name);
    this.chart.append(made);
    return made;
  }

  take({ what, at, number, copy }) {
    this.now = Math.max(this.now, at);
    if (this.began === null) {
      this.began = performance.now() - at * 1000;
      if (!calm.matches) requestAnimationFrame(() => this.grow());
    }
    if (what === "asked") {
      const made = this.add(this.lines, "line", `copy-${copy.toLowerCase()}`);
      this.requests.set(number, { number, from: at, to: null, made });
      this.counts.asked += 1;
    } else if (what === "answered") {
      this.requests.get(number).to = at;
      this.requests.get(number).made.classList.add("done");
      this.counts.answered += 1;
    } else if (what === "computing") {
      this.works.set(number, { number, from: at, to: null, made: this.add(this.bars, "rect", "work") });
    } else if (what === "computed") {
      this.works.get(number).to = at;
      this.counts.computed += 1;
    }
    this.count();
  }

  add(group, shape, name) {
    const made = document.createElementNS(SVG, shape);
    made.setAttribute("class", name);
    group.append(made);
    return made;
  }

  count() {
    for (const [name, number] of Object.entries(this.counts)) byId(name).textContent = number;
  }

  grow() {
    if (this.ended) return;
    this.now = Math.max(this.now, (performance.now() - this.began) / 1000);
    this.draw();
    requestAnimationFrame(() => this.grow());
  }

  end() {
    this.ended = true;
    this.now = Math.max(...[...this.requests.values(), ...this.works.values()].map(({ to }) => to ?? 0), 0.001);
    this.draw();
  }

  x(at) {
    return MARGIN + (at / this.span) * (this.width - 2 * MARGIN);
  }

  draw() {
    if (this.now > this.span) {
      this.span = Math.ceil(this.now * 5) / 5;
      this.drawAxis();
    }
    for (const { number, from, to, made } of this.requests.values()) {
      const y = TOP + number * LANE;
      made.setAttribute("x1", this.x(from));
      made.setAttribute("x2", Math.max(this.x(to ?? this.now), this.x(from) + 4));
      made.setAttribute("y1", y);
      made.setAttribute("y2", y);
    }
    for (const { number, from, to, made } of this.works.values()) {
      made.setAttribute("x", this.x(from));
      made.setAttribute("y", WORK_TOP - (number - 1) * (WORK_HEIGHT + 2));
      made.setAttribute("width", Math.max(this.x(to ?? this.now) - this.x(from), 2));
      made.setAttribute("height", WORK_HEIGHT);
      made.setAttribute("rx", 3);
    }
  }

  drawAxis() {
    this.axis.replaceChildren();
    for (let at = 0; at <= this.span + 0.001; at += 0.2) {
      const line = this.add(this.axis, "line", "tick");
      for (const name of ["x1", "x2"]) line.setAttribute(name, this.x(at));
      line.setAttribute("y1", TOP - 4);
      line.setAttribute("y2", AXIS);
      const text = this.add(this.axis, "text", "time");
      text.setAttribute("x", Math.min(Math.max(this.x(at), MARGIN + 4), this.width - MARGIN - 12));
      text.setAttribute("y", AXIS + 16);
      text.textContent = at === 0 ? "0" : `${at.toFixed(1)} s`;
    }
  }
}
