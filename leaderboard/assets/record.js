// Shows the record that the address names. A page from a file cannot fetch: the record comes as a script of its own.
// What it says is only ever set as text.
"use strict";
(function () {
  const NAME = /^[0-9a-f]{64}(-[a-z]+)?$/;
  const place = document.getElementById("record");
  const status = document.getElementById("state");
  const title = document.getElementById("title");
  let wanted = "";

  function make(tag, text, more = {}) {
    const found = document.createElement(tag);
    if (text !== null && text !== undefined) found.textContent = String(text);
    for (const [name, value] of Object.entries(more)) found.setAttribute(name, value);
    return found;
  }
  const percent = (x) => (x === null || x === undefined ? "—" : (100 * x).toFixed(2));
  const plain = (x) => (x === null || x === undefined ? "—" : typeof x === "object" ? JSON.stringify(x) : String(x));
  const count = (x) => Number(x).toLocaleString("en");

  function link(text) { // an address of the web becomes a link, anything else stays text
    let address = null;
    try { address = new URL(String(text)); } catch { /* no address */ }
    if (!address || !["http:", "https:"].includes(address.protocol)) return make("span", text);
    return make("a", text, { href: address.href, rel: "noopener noreferrer" });
  }

  function section(name, ...parts) {
    const found = make("section");
    const id = name.toLowerCase().replace(/[^a-z]+/g, "-");
    found.setAttribute("aria-labelledby", id);
    found.append(make("h2", name, { id }), ...parts);
    place.append(found);
  }

  function facts(pairs) {
    const list = make("dl");
    for (const [name, value] of pairs) {
      if (value === null || value === undefined || value === "") continue;
      const cell = make("dd");
      const text = value instanceof Node ? value.textContent : String(value);
      cell.append(value instanceof Node ? value : /^[0-9a-f]{40,64}$/.test(text) ? hash(text) : make("span", value));
      const group = make("div", null, text.length > 48 ? { class: "long" } : {});
      group.append(make("dt", name), cell);
      list.append(group);
    }
    return list;
  }

  function table(caption, heads, rows) {
    const scroll = make("div", null, { class: "scroll", role: "region", tabindex: "0", "aria-label": caption });
    const made = make("table", null, { class: "plain" });
    made.append(make("caption", caption));
    const first = made.createTHead().insertRow();
    for (const [name, kind] of heads) first.append(make("th", name, { scope: "col", class: kind || "" }));
    const body = made.createTBody();
    for (const row of rows) {
      const line = body.insertRow();
      row.forEach((value, i) => {
        const cell = make(i ? "td" : "th", null, { class: heads[i][1] || "" });
        if (!i) cell.setAttribute("scope", "row");
        cell.append(value instanceof Node ? value : document.createTextNode(plain(value)));
        line.append(cell);
      });
    }
    scroll.append(made);
    return scroll;
  }

  function hash(text) { return text ? make("code", text) : "—"; }

  function records(ids) {
    const found = make("span");
    for (const id of ids) found.append(make("a", id.slice(0, 12), { href: `#${id}` }), " ");
    return found;
  }

  function code(lines) {
    const found = make("pre", null, { tabindex: "0" });
    found.append(make("code", lines.join("\n")));
    return found;
  }

  function what(data) {
    const r = data.record;
    const borrowed = r.borrowed ? `, with the student recipe of ${r.borrowed}` : "";
    const method = make("a", r.method, { href: data.page });
    const marks = make("span");
    marks.append(make("span", data.standing, { class: `mark ${data.standing}` }), ` ${data.means}`);
    if (data.reduced) marks.append(" ", make("span", "reduced", { class: "mark reduced" }), " a recipe cheaper than the published one");
    return facts([
      ["standing", marks],
      ["method", method], ["data set", r.dataset], ["budget", data.budget],
      ["protocol", `${r.protocol}, version ${r.protocol_version}`],
      ["student network", r.student_network + borrowed], ["distillation network", r.distill_network],
      ["recipe", data.recipe_name], ["synthesis seed", r.synthesis_seed], ["imported set", r.imported && hash(r.imported)],
      ["supersedes", r.supersedes && (data.supersedes.length ? records(data.supersedes) : hash(r.supersedes))],
      ["superseded by", data.superseded_by.length ? records(data.superseded_by) : null],
      ["note", r.note],
    ]);
  }

  function runTables(r) {
    const heads = [["Seed", "num"], ["Top-1 %", "num"], ["Top-5 %", "num"], ["Status"], ["Seconds", "num"], ["Steps", "num"],
      ["Final loss", "num"], ["Set"], ["Teacher"], ["Date"]];
    const rows = r.runs.map((x) => [x.seed, percent(x.top1), percent(x.top5), x.reason ? `${x.status}: ${x.reason}` : x.status,
      x.seconds.toFixed(1), x.steps, x.final_loss === null ? null : x.final_loss.toPrecision(4), (x.synset || "—").slice(0, 12), (x.teacher || "—").slice(0, 12), x.date]);
    const where = r.runs.map((x) => [x.seed, x.device, x.precision, x.devices > 1 ? `${x.threads} in each of ${x.devices} processes` : x.threads, x.compiled ? "yes" : "no", x.stacked ? "yes" : "no", x.build,
      x.commit ? hash(x.commit) : "—", x.dirty === null ? "not known" : x.dirty ? "yes, changed" : "no",
      Object.entries(x.versions).map(([k, v]) => `${k} ${v}`).join(", "), x.wandb ? link(x.wandb) : "—"]);
    const parts = [table("Runs", heads, rows), table("Environment", [["Seed", "num"], ["Device"], ["Precision"], ["Threads", "num"],
      ["Compiled"], ["Stacked"], ["Build of torch"], ["Commit"], ["Dirty checkout"], ["Versions", "wide"], ["Log"]], where)];
    const curves = r.runs.filter((x) => x.snapshots);
    if (curves.length) parts.push(table("During the distillation", [["Seed", "num"], ["Step", "num"], ["Top-1 %", "num"]],
      curves.flatMap((x) => x.snapshots.map((s) => [x.seed, count(s.step), percent(s.top1)]))));
    const classes = r.runs.filter((x) => x.per_class);
    if (classes.length) {
      const more = make("details");
      more.append(make("summary", "Accuracy by class, %"), table("Accuracy by class, %", [["Seed", "num"], ["By class, in order", "wide"]],
        classes.map((x) => [x.seed, x.per_class.map((p) => (100 * p).toFixed(1)).join(", ")])));
      parts.push(more);
    }
    return parts;
  }

  function sets(r) {
    return Object.entries(r.synsets).flatMap(([key, s]) => [
      facts([["set", hash(key)], ["images", count(s.images)], ["space", s.space], ["stored as", s.codec],
        ["cost", Object.entries(s.cost).map(([k, v]) => `${k.replace("_", " ")} ${count(v)}`).join(", ")],
        ["made with", Object.entries(s.environment).filter(([, v]) => v !== null).map(([k, v]) => `${k} ${v}`).join(", ")]]),
      table("Bytes by part", [["Part"], ["Bytes", "num"]], Object.entries(s.bytes).map(([k, v]) => [k.replace("_", " "), count(v)])),
    ]);
  }

  function draw(data) {
    const r = data.record;
    place.replaceChildren();
    title.textContent = `${r.method} on ${r.dataset}, ${data.budget}, ${r.protocol}`;
    document.title = `${title.textContent}, ddbench`;
    status.textContent = "";
    section("What it is", what(data));
    section("Runs", ...runTables(r));
    section("Reproduce", code(data.reproduce), ...data.needed.map((line) => make("p", `${line}.`)));
    if (Object.keys(data.about).length) {
      section("Submission", facts(Object.entries(data.about).map(([k, v]) => [k, link(v)])));
    }
    const { hyper, ...about } = r.recipe;
    const isPlain = hyper && typeof hyper === "object" && !Array.isArray(hyper);
    section("Recipe", facts(Object.entries(isPlain ? about : r.recipe).map(([k, v]) => [k.replaceAll("_", " "), plain(v)])),
      ...(isPlain ? [make("h3", "Hyper-parameters"), facts(Object.entries(hyper).map(([k, v]) => [k, plain(v)]))] : []));
    section("Sets", ...sets(r));
    const teachers = Object.entries(r.teachers);
    if (teachers.length) section("Teachers", table("Teachers", [["Hash"], ["Network"], ["Test accuracy, %", "num"], ["Reference"], ["Recipe"]],
      teachers.map(([key, t]) => [hash(key), t.network, percent(t.accuracy), t.reference ? "yes" : "no", hash(t.recipe_hash)])));
    section("Hashes", facts([["record", hash(data.key)], ["recipe", hash(r.recipe_hash)], ["protocol", hash(r.protocol_digest)],
      ["student recipe", r.student_recipe_hash && hash(r.student_recipe_hash)], ["lender", r.lender && hash(r.lender)]]));
    const whole = make("details");
    whole.append(make("summary", "Full record (JSON)"), code([JSON.stringify(r, null, 2)]));
    section("File", whole);
  }

  window.ddbenchRecord = (data) => { if (data.id === wanted) draw(data); };

  function load() {
    const name = location.hash.slice(1);
    wanted = name;
    place.replaceChildren();
    title.textContent = "Record";
    if (!NAME.test(name)) {
      status.textContent = name ? "The address names no record." : "This page shows the record that its address names.";
      return;
    }
    status.textContent = "Reading the record.";
    const script = make("script", null, { src: `records/${name}.js` });
    script.addEventListener("error", () => { if (wanted === name) status.textContent = "There is no such record on this site."; });
    script.addEventListener("load", () => script.remove());
    document.head.append(script);
  }

  window.addEventListener("hashchange", load);
  load();
})();
