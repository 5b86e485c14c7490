"use strict";
// The example browser: filters over all questions, and one question with its frames. Texts of data sets become text nodes only.
// The data files are scripts that call R, because a page opened from disk cannot fetch files.
(() => {
  const meta = JSON.parse(document.getElementById("meta").textContent);
  const byId = (id) => document.getElementById(id);
  const NONE = "-", PER_PAGE = 40, LETTER = (option) => String.fromCharCode(65 + option % 26) + (option > 25 ? Math.floor(option / 26) : "");
  const RESULTS = {right: "right", wrong: "wrong", none: "not answered", unknown: "right answer not known"};
  const MARKS = {right: "✓", wrong: "✗", none: "–", unknown: "·"};

  // ---- data files
  const parts = [], pages = new Map(), pictures = new Map(), loading = new Map();
  const all = {i: [], q: [], t: [], v: [], y: "", p: meta.settings.map(() => ""), videos: []};
  let lower = null, numberOf = null;
  window.R = {
    index: (number, part) => { parts[number] = part; },
    page: (number, details) => { pages.set(number, details); },
    thumbs: (name, width, height, images) => { pictures.set(name, {width, height, images}); },
  };
  function load(path) {
    if (!loading.has(path)) {
      loading.set(path, new Promise((done, failed) => {
        const script = document.createElement("script");
        script.onload = done;
        script.onerror = () => failed(new Error(`${path} is missing: the whole folder of the report is needed`));
        script.src = path;
        document.head.append(script);
      }));
    }
    return loading.get(path);
  }
  async function loadIndex() {
    await Promise.all(Array.from({length: meta.indexes}, (_, number) => load(`data/index-${number}.js`)));
    for (const part of parts) {
      for (const name of ["i", "q", "t", "v"]) for (const value of part[name]) all[name].push(value);
      all.y += part.y;
      part.p.forEach((text, setting) => { all.p[setting] += text; });
      if (part.videos) all.videos = part.videos;
    }
    numberOf = new Map(all.i.map((id, number) => [id, number]));
  }
  async function detailOf(number) {
    const page = meta.pages.findIndex((start, at) => start <= number && (at + 1 === meta.pages.length || meta.pages[at + 1] > number));
    await load(`data/page-${page}.js`);
    return pages.get(page)[number - meta.pages[page]];
  }
  async function picturesOf(set, video) {
    const name = `${set}-${video}`;
    await load(`thumbs/${name}.js`).catch(() => null);  // failed videos have no file
    return pictures.get(name) || null;
  }

  // ---- state, stored in the address after #
  const DEFAULTS = {question: "", text: "", type: "", result: "", change: "", video: "", a: String(meta.a), b: String(meta.b), page: "0"};
  let state = {...DEFAULTS};
  function fromAddress() {
    const parameters = new URLSearchParams(location.hash.slice(1));
    state = {...DEFAULTS};
    for (const name of Object.keys(DEFAULTS)) if (parameters.has(name)) state[name] = parameters.get(name);
    const isSetting = (text) => /^\d+$/.test(text) && Number(text) < meta.settings.length;
    if (!isSetting(state.a)) state.a = DEFAULTS.a;
    if (!isSetting(state.b)) state.b = state.b === "-1" ? "-1" : DEFAULTS.b;
  }
  function address(changes) {
    const parameters = new URLSearchParams();
    for (const [name, value] of Object.entries({...state, ...changes})) if (value !== DEFAULTS[name]) parameters.set(name, value);
    return "#" + parameters.toString();
  }

  // ---- filters
  const outcome = (number, setting) => {
    const answer = all.p[setting][number], right = all.y[number];
    return answer === NONE ? "none" : right === NONE ? "unknown" : answer === right ? "right" : "wrong";
  };
  const CHANGES = {
    changed: (a, b, answers) => answers[0] !== answers[1],
    first: (a, b) => a === "right" && b !== "right",
    second: (a, b) => b === "right" && a !== "right",
    both: (a, b, answers) => answers[0] !== answers[1] && a !== "right" && b !== "right",
  };
  function filtered() {
    const a = Number(state.a), b = Number(state.b), text = state.text.trim().toLowerCase(), video = state.video.trim().toLowerCase();
    const type = state.type === "" ? -2 : meta.types.indexOf(state.type), change = b >= 0 ? CHANGES[state.change] : undefined;
    if (text && !lower) lower = all.q.map((question, number) => `${question}\n${all.i[number]}`.toLowerCase());
    const videos = video ? all.videos.map((id) => id.toLowerCase().includes(video)) : null;
    const numbers = [];
    for (let number = 0; number < all.i.length; number++) {
      if (type !== -2 && all.t[number] !== type) continue;
      if (videos && !videos[all.v[number]]) continue;
      if (state.result && outcome(number, a) !== state.result) continue;
      if (change && !change(outcome(number, a), outcome(number, b), [all.p[a][number], all.p[b][number]])) continue;
      if (text && !lower[number].includes(text)) continue;
      numbers.push(number);
    }
    return numbers;
  }

  // ---- elements
  // As in cache/printable.py: control characters, and those that change the text direction, are shown escaped.
  const CONTROLS = /[\p{Cc}\p{Cf}\p{Zl}\p{Zp}]/gu, JOINERS = "\u200c\u200d", SHORT = {"\n": "\\n", "\r": "\\r", "\t": "\\t"};
  const printable = (text) => text.replace(CONTROLS, (character) => {
    const code = character.codePointAt(0), [prefix, digits] = code < 256 ? ["x", 2] : code < 65536 ? ["u", 4] : ["U", 8];
    return JOINERS.includes(character) ? character : SHORT[character] || `\\${prefix}${code.toString(16).padStart(digits, "0")}`;
  });
  function el(tag, attributes, ...children) {
    const element = tag === "svg" || tag === "path" || tag === "circle"
      ? document.createElementNS("http://www.w3.org/2000/svg", tag) : document.createElement(tag);
    for (const [name, value] of Object.entries(attributes || {})) if (value !== null && value !== undefined && value !== false) element.setAttribute(name, value);
    const present = children.filter((child) => child !== null && child !== undefined && child !== "");
    element.append(...present.map((child) => typeof child === "string" ? printable(child) : child));
    return element;
  }
  const mark = (result, letter) => el("span", {class: `mark ${result}`, role: "img", "aria-label": `${letter}: ${RESULTS[result]}`, title: `${letter}: ${RESULTS[result]}`}, MARKS[result]);
  const hasB = () => Number(state.b) >= 0;

  // ---- list of questions
  let numbers = [], drawing = 0;
  function drawList() {
    numbers = filtered();
    const nPages = Math.max(1, Math.ceil(numbers.length / PER_PAGE)), page = Math.min(Math.max(0, Number(state.page) || 0), nPages - 1);
    const hasAnswers = meta.settings[Number(state.a)].answers;
    const rows = numbers.slice(page * PER_PAGE, (page + 1) * PER_PAGE).map((number) => {
      const link = el("a", {href: address({question: all.i[number]}), "data-number": number},
        el("span", {class: "marks"}, hasAnswers ? mark(outcome(number, Number(state.a)), "A") : null, hasAnswers && hasB() ? mark(outcome(number, Number(state.b)), "B") : null),
        el("span", {class: "words"}, el("span", {class: "text"}, all.q[number]), el("span", {class: "of"}, all.videos[all.v[number]])));
      return el("li", {}, link);
    });
    byId("results").replaceChildren(...rows);
    byId("count").textContent = `${numbers.length.toLocaleString("en")} of ${all.i.length.toLocaleString("en")} questions`;
    byId("pageno").textContent = `${page + 1} / ${nPages}`;
    byId("before").disabled = page === 0;
    byId("after").disabled = page + 1 === nPages;
    byId("before").onclick = () => change({page: String(page - 1)});
    byId("after").onclick = () => change({page: String(page + 1)});
  }
  function markCurrent(number) {
    for (const link of byId("results").querySelectorAll("a")) {
      const isCurrent = Number(link.dataset.number) === number;
      link.toggleAttribute("aria-current", isCurrent);
      if (isCurrent && location.hash) link.scrollIntoView({block: "nearest"});  // without a hash, stay at the top of the page
    }
  }

  // ---- one question
  const seconds = (value) => `${value < 100 ? value.toFixed(1) : Math.round(value)} s`;
  function shownPositions(n, set, settings) {
    const shown = new Set(meta.shown[set][n]);
    for (const setting of settings) for (const position of (setting && setting.k) || []) shown.add(position);
    return [...shown].sort((x, y) => x - y);
  }
  function curve(values, positions, at, className) {
    const low = Math.min(...values), high = Math.max(...values), y = (position) => 30 - 26 * (high > low ? (values[position] - low) / (high - low) : 0.5);
    const middle = y(positions[at]), before = at ? (y(positions[at - 1]) + middle) / 2 : null, after = at + 1 < positions.length ? (y(positions[at + 1]) + middle) / 2 : null;
    const path = (before === null ? `M50 ${middle}` : `M0 ${before}L50 ${middle}`) + (after === null ? "" : `L100 ${after}`);
    return el("path", {d: path, class: className, "vector-effect": "non-scaling-stroke"});
  }
  function strip(detail, set, sides, images) {
    const frames = detail.f[set];
    if (!frames) return el("p", {class: "muted"}, "No frames: the video could not be read.");
    const n = frames.s.length, uniform = meta.uniform[set][n] || [], settings = sides.map((side) => side.content);
    const positions = shownPositions(n, set, settings);
    const scored = sides.map((side) => (side.scorer >= 0 ? detail.c[side.scorer] : null));
    const frameAnswers = frameAnswersOf(detail, sides, set);
    const shape = images ? images.width / images.height : 16 / 9;
    const list = el("ol", {class: "strip", style: `--cell:${Math.round(Math.min(150, Math.max(58, 68 * shape)))}px;--shape:${shape};--n:${positions.length}`, "aria-label": `${n} sampled frames, ${positions.length} shown`});
    positions.forEach((position, at) => {
      const time = frames.s[position], isTrue = detail.m.some(([start, end]) => start <= time && time <= end);
      const by = sides.filter((side) => side.content && (side.content.k || []).includes(position));
      const isUniform = uniform.includes(position), scores = sides.map((side, number) => scored[number] ? `score of ${side.letter} ${scored[number][position].toPrecision(3)}` : "").filter((text, number, each) => text && each.indexOf(text) === number);
      const frameAnswer = frameAnswers ? frameAnswers[position] : undefined;
      const description = [`Frame ${position + 1} of ${n}, at ${seconds(time)}`, ...scores, ...by.map((side) => `keyframe of ${side.letter}`), isUniform ? "evenly spread keyframe" : "", isTrue ? "in a true moment" : "", frameAnswer === undefined ? "" : `answer from this frame alone: ${detail.o[frameAnswer]}`].filter(Boolean).join("; ");
      const image = images && images.images[frames.r[position]];
      const chart = el("svg", {viewBox: "0 0 100 34", preserveAspectRatio: "none", "aria-hidden": "true"});
      scored.forEach((values, number) => { if (values && (number === 0 || values !== scored[0])) chart.append(curve(values, positions, at, `curve ${sides[number].letter}`)); });
      list.append(el("li", {class: ["cell", by.length ? "chosen" : "", ...by.map((side) => `by-${side.letter}`), isTrue ? "true" : ""].join(" "), title: description},
        el("span", {class: "tags", "aria-hidden": "true"}, ...by.map((side) => el("b", {class: side.letter}, side.letter)), isUniform ? el("i", {}, "◇") : null),
        image ? el("img", {src: `data:image/webp;base64,${image}`, alt: description, width: images.width, height: images.height}) : el("span", {class: "blank", role: "img", "aria-label": description}),
        el("span", {class: "truth"}), chart,
        el("span", {class: "time", "aria-hidden": "true"}, seconds(time), frameAnswer === undefined ? null : el("b", {class: detail.y === null ? "" : frameAnswer === detail.y ? "right" : "wrong"}, LETTER(frameAnswer)))));
    });
    return list;
  }
  function frameAnswersOf(detail, sides, set) {  // option by position of the frame in this sampling
    if (detail.l && set === meta.settings[meta.a].frames) return detail.l;
    const answers = {};
    for (const side of sides) if (side.set === set && side.content && side.content.f) side.content.k.forEach((position, at) => { answers[position] = side.content.f[at]; });
    meta.settings.forEach((setting, number) => {  // settings with voting have an answer for each keyframe
      const content = detail.w[number];
      if (setting.frames === set && content && content.f) content.k.forEach((position, at) => { if (!(position in answers)) answers[position] = content.f[at]; });
    });
    return Object.keys(answers).length ? answers : null;
  }
  function optionsTable(detail, sides, number) {
    if (!detail.o.length) return momentsList(detail, sides);
    const answered = sides.filter((side) => side.content && all.p[side.number][number] !== NONE);
    const head = el("tr", {}, el("th", {scope: "col"}, ""), el("th", {scope: "col", class: "left"}, "Option"), ...sides.map((side) => el("th", {scope: "col"}, el("span", {class: `who ${side.letter}`}, side.letter))));
    const rows = detail.o.map((option, at) => el("tr", {class: at === detail.y ? "answer" : ""}, el("th", {scope: "row"}, LETTER(at)),
      el("td", {class: "left"}, option, at === detail.y ? el("span", {class: "flag"}, "right answer") : null),
      ...sides.map((side) => {
        if (!answered.includes(side)) return el("td", {}, "–");
        const isChosen = all.p[side.number].charCodeAt(number) - 48 === at, thousandths = side.content.p ? side.content.p[at] : isChosen ? 1000 : 0;
        const votes = side.content.v ? ` · ${side.content.v[at]} votes` : "";
        return el("td", {class: `chance ${side.letter}${isChosen ? " picked" : ""}`}, el("span", {class: "bar", style: `--share:${thousandths / 10}%`}), el("span", {}, side.content.p ? `${(thousandths / 10).toFixed(1)} %${votes}` : isChosen ? "chosen" : ""), isChosen ? el("span", {class: "sr"}, " (chosen)") : null);
      })));
    return el("table", {class: "options"}, el("caption", {class: "sr"}, "Options with their probabilities"), el("thead", {}, head), el("tbody", {}, ...rows));
  }
  function momentsList(detail, sides) {
    const spans = (moments) => (moments || []).map(([start, end]) => `${start}–${end} s`).join(", ") || "none";
    return el("dl", {}, el("dt", {}, "True moments"), el("dd", {}, spans(detail.m)), ...sides.flatMap((side) => [el("dt", {}, `Retrieved by ${side.letter}, best first`), el("dd", {}, spans(side.content && side.content.m))]));
  }
  function legend(detail, sides) {
    const items = sides.map((side) => {
      const values = side.scorer >= 0 ? detail.c[side.scorer] : null, scores = values ? `; score ${Math.min(...values).toPrecision(3)} to ${Math.max(...values).toPrecision(3)}` : side.scorer < 0 ? "; uses no scores" : "";
      const result = meta.settings[side.number].answers ? mark(outcome(side.at, side.number), side.letter) : null;
      return el("li", {}, el("b", {class: `who ${side.letter}`}, side.letter), " ", result, " ", side.name, scores, side.content && side.content.r ? el("span", {class: "reason"}, ` ${side.content.r}`) : null, side.content ? null : el("span", {class: "reason"}, " does not have this question, or has another one with its id"));
    });
    return el("ul", {class: "legend"}, ...items, el("li", {class: "muted"}, "◇ evenly spread", detail.m.length ? " · green: true moment" : "", sides.some((side) => frameAnswersOf(detail, sides, side.set)) ? " · letter beside a time: the answer from this frame alone" : ""));
  }
  async function drawDetail() {
    const turn = ++drawing, target = byId("detail");
    const asked = state.question ? numberOf.get(state.question) : numbers[Number(state.page) * PER_PAGE] ?? numbers[0];
    if (asked === undefined) {
      target.replaceChildren(el("p", {class: "muted"}, state.question ? `There is no question ${state.question} in this report.` : "No question matches these filters."));
      return;
    }
    try {
      const detail = await detailOf(asked), a = Number(state.a), b = Number(state.b);
      const sides = (b >= 0 ? [a, b] : [a]).map((number, side) => {
        const setting = meta.settings[number], run = meta.runs.length > 1 ? `${meta.runs[setting.run]}: ` : "";
        return {letter: "AB"[side], number, at: asked, name: run + setting.name, scorer: setting.scorer, set: setting.frames, content: detail.w[number]};
      });
      const strips = [];
      for (const set of new Set(sides.map((side) => side.set))) {
        const own = sides.filter((side) => side.set === set), images = detail.f[set] ? await picturesOf(set, all.v[asked]) : null;
        strips.push(strip(detail, set, own, images));
      }
      if (turn !== drawing) return;
      const type = all.t[asked] >= 0 ? meta.types[all.t[asked]] : "", [start, end] = detail.d, at = numbers.indexOf(asked);
      const step = (offset, label) => { const next = numbers[at + offset]; return el("a", {class: "step", href: at < 0 || next === undefined ? null : address({question: all.i[next]}), "aria-label": label}, offset < 0 ? "←" : "→"); };
      target.replaceChildren(
        el("div", {class: "title"}, el("h3", {tabindex: "-1"}, all.q[asked]), el("nav", {"aria-label": "questions"}, step(-1, "previous question"), step(1, "next question"))),
        el("p", {class: "muted"}, el("a", {href: address({video: all.videos[all.v[asked]], page: "0"}), title: "all questions about this video"}, all.videos[all.v[asked]]),
          type ? ` · ${type}` : "", start !== null || end !== null ? ` · clip ${start === null ? "from the beginning" : `${start} s`} to ${end === null ? "the end" : `${end} s`}` : "", detail.m.length ? ` · true moments ${detail.m.map(([from, to]) => `${from}–${to} s`).join(", ")}` : "", ` · ${all.i[asked]}`),
        legend(detail, sides), ...strips, optionsTable(detail, sides, asked));
      target.dataset.question = all.i[asked];
      markCurrent(asked);
    } catch (error) {
      if (turn === drawing) target.replaceChildren(el("p", {class: "reason"}, error.message));
    }
  }

  // ---- controls
  function drawControls() {
    for (const name of ["text", "video", "type", "result", "change", "a", "b"]) {
      const control = byId(`by-${name}`);
      if (control && control.value !== state[name]) control.value = state[name];
    }
    byId("by-change").disabled = !hasB();
  }
  function draw() { drawControls(); drawList(); return drawDetail(); }
  function change(changes) {
    const next = address({page: "0", question: "", ...changes});
    history.replaceState(null, "", next);
    fromAddress();
    return draw();
  }
  let timer = 0;
  for (const name of ["text", "video"]) byId(`by-${name}`).addEventListener("input", (event) => { clearTimeout(timer); timer = setTimeout(() => change({[name]: event.target.value}), 150); });
  for (const name of ["type", "result", "change"]) byId(`by-${name}`).addEventListener("change", (event) => change({[name]: event.target.value}));
  for (const name of ["a", "b"]) byId(`by-${name}`).addEventListener("change", (event) => change({[name]: event.target.value, question: state.question}));
  byId("filters").addEventListener("submit", (event) => event.preventDefault());
  byId("clear").addEventListener("click", () => change({...DEFAULTS}));
  document.addEventListener("keydown", (event) => {
    const isTyping = /^(INPUT|SELECT|TEXTAREA)$/.test(event.target.tagName);
    if (event.key === "Escape" && isTyping) event.target.blur();
    if (isTyping || event.ctrlKey || event.metaKey || event.altKey) return;
    const steps = byId("detail").querySelectorAll(".step");
    if (event.key === "/") { event.preventDefault(); byId("by-text").focus(); }
    if ((event.key === "j" || event.key === "n") && steps[1] && steps[1].hasAttribute("href")) location.hash = steps[1].getAttribute("href");
    if ((event.key === "k" || event.key === "p") && steps[0] && steps[0].hasAttribute("href")) location.hash = steps[0].getAttribute("href");
  });
  window.addEventListener("hashchange", () => { fromAddress(); draw(); });

  fromAddress();
  const isLinked = state.question !== "";
  loadIndex().then(draw).then(() => {
    byId("examples").setAttribute("aria-busy", "false");
    if (isLinked) byId("examples").scrollIntoView();
  }).catch((error) => { byId("count").textContent = error.message; });
})();
