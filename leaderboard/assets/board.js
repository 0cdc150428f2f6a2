// Filters and sorting of the table of rows. The address bar says what is chosen, so that a view can be sent to others.
"use strict";
(function () {
  const table = document.querySelector("table.board");
  if (!table) return;
  const FIRST = 100; // rows that are drawn before somebody asks for all
  const FIELDS = ["dataset", "budget", "protocol", "student", "standing"];
  const body = table.tBodies[0];
  const form = document.getElementById("filters");
  const count = document.getElementById("count");
  const more = document.getElementById("more");
  const heads = Array.from(table.tHead.rows[0].cells);
  const columns = heads.map((head) => head.dataset.sort);
  const rows = Array.from(body.rows, (row) => ({
    row,
    fields: FIELDS.map((name) => row.dataset[name]),
    name: row.cells[0].dataset.v.toLowerCase(),
  }));
  const state = { method: "", sort: "", down: false, all: !form };
  for (const name of FIELDS) state[name] = "";

  const value = (row, column) => {
    const cell = row.cells[column];
    return "v" in cell.dataset ? cell.dataset.v : cell.textContent;
  };

  function chosen() {
    const method = state.method.toLowerCase();
    return rows.filter(({ fields, name }) =>
      FIELDS.every((field, i) => !state[field] || fields[i] === state[field] || (field === "standing" && fields[i].split(" ").includes(state[field]))) &&
      (!method || name.includes(method)));
  }

  function sorted(found) {
    const column = columns.indexOf(state.sort);
    if (column < 0) return found;
    const numbers = "number" in heads[column].dataset;
    const way = state.down ? -1 : 1;
    const keyed = found.map((each, place) => ({ each, place, key: value(each.row, column) }));
    const order = new Intl.Collator("en", { numeric: true }).compare;
    keyed.sort((a, b) => {
      if (!a.key || !b.key) return (!a.key - !b.key) || a.place - b.place; // what is not known comes last, both ways
      return way * (numbers ? a.key - b.key : order(a.key, b.key)) || a.place - b.place;
    });
    return keyed.map(({ each }) => each);
  }

  function draw() {
    const found = sorted(chosen());
    const shown = state.all ? found : found.slice(0, FIRST);
    body.replaceChildren(...shown.map(({ row }) => row));
    heads.forEach((head, i) => {
      if (!columns[i]) return;
      head.setAttribute("aria-sort", columns[i] === state.sort ? (state.down ? "descending" : "ascending") : "none");
    });
    if (!form) return;
    const of = found.length === rows.length ? "" : ` of ${rows.length.toLocaleString("en")}`;
    const cut = shown.length < found.length ? `; the first ${shown.length} are shown` : "";
    count.textContent = `${found.length.toLocaleString("en")}${of} rows${cut}`;
    more.hidden = shown.length === found.length;
    more.textContent = `Show all ${found.length.toLocaleString("en")} rows`;
  }

  function read() {
    const words = new URLSearchParams(location.hash.slice(1));
    for (const name of [...FIELDS, "method"]) {
      state[name] = words.get(name) || "";
      const control = form.elements[name];
      if (name !== "method" && !Array.from(control.options).some((each) => each.value === state[name])) {
        control.add(new Option(state[name], state[name])); // an address may name what is not here: then no row fits
      }
      control.value = state[name];
    }
    state.sort = columns.includes(words.get("sort")) ? words.get("sort") : "";
    state.down = words.get("way") === "down";
    draw();
  }

  function write() {
    const words = new URLSearchParams();
    for (const name of [...FIELDS, "method"]) if (state[name]) words.set(name, state[name]);
    if (state.sort) words.set("sort", state.sort);
    if (state.sort && state.down) words.set("way", "down");
    const text = words.toString();
    history.replaceState(null, "", text ? `#${text}` : location.pathname + location.search);
  }

  heads.forEach((head, i) => {
    if (!columns[i]) return;
    const button = document.createElement("button");
    button.type = "button";
    button.className = "sort";
    button.append(...head.childNodes);
    button.addEventListener("click", () => {
      const high = head.classList.contains("num") && columns[i] !== "rank"; // the largest first, but the best rank
      if (state.sort !== columns[i]) Object.assign(state, { sort: columns[i], down: high });
      else if (state.down === high) state.down = !high;
      else Object.assign(state, { sort: "", down: false });
      if (form) write();
      draw();
    });
    head.append(button);
  });

  if (form) {
    form.hidden = false;
    form.addEventListener("submit", (event) => event.preventDefault());
    form.addEventListener("input", () => {
      for (const name of [...FIELDS, "method"]) state[name] = form.elements[name].value.trim();
      write();
      draw();
    });
    form.addEventListener("reset", () => {
      for (const name of [...FIELDS, "method"]) state[name] = "";
      Object.assign(state, { sort: "", down: false });
      write();
      draw();
    });
    more.addEventListener("click", () => { state.all = true; draw(); });
    window.addEventListener("hashchange", read);
    window.addEventListener("beforeprint", () => { state.all = true; draw(); });
    read();
  } else {
    draw();
  }
})();
