"use strict";
// Names come from data that anyone may have written, so all text enters the page as text nodes and never as markup.

const MOST_FOUND = 8, LIST_LENGTH = 20, TABLE_ROWS = 8;
const state = { about: null, user: null, item: null };
const byId = (id) => document.getElementById(id);

// Letters that turn the direction of what follows them would let a name rewrite its neighbours.
const clean = (text) => text.replace(/[\u0000-\u001f\u007f-\u009f\u202a-\u202e\u2066-\u2069]/g, "?");

function element(tag, properties, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children.filter((child) => child !== null).map((child) => (typeof child === "string" ? clean(child) : child)));
  return made;
}

async function ask(path, parameters) {
  const response = await fetch(path + "?" + new URLSearchParams(parameters), { headers: { Accept: "application/json" } });
  const answer = await response.json();
  if (!response.ok) throw new Error([answer.error.problem, answer.error.remedy].filter(Boolean).join(". "));
  return answer;
}

function show(problem) {
  byId("problem").hidden = problem === null;
  byId("problem").textContent = problem === null ? "" : problem.message;
}

// The newest question of each kind wins, however late an older answer comes.
const asked = {};
async function latest(kind, work) {
  const number = (asked[kind] = (asked[kind] || 0) + 1);
  try {
    const finish = await work();
    if (asked[kind] === number) { show(null); finish(); }
  } catch (problem) {
    if (asked[kind] === number) show(problem);
  }
}

const title = (label) => (label.name === label.id ? label.id : label.name);
const idOf = (label) => (label.name === label.id ? null : element("span", { className: "id" }, " " + label.id));
const number = (value, digits = 4) => value.toFixed(digits);
const percent = (row) => (row.share === null ? "–" : (100 * row.share).toFixed(1) + "%");

// --- choosing ---------------------------------------------------------------------------------------------------------

function search(kind, choose) {
  const input = byId(kind + "-query"), found = byId(kind + "-found");
  let timer = 0;
  const run = () => latest("search " + kind, async () => {
    const query = input.value.trim();
    const rows = query ? (await ask("/" + kind + "s", { query, k: MOST_FOUND }))[kind + "s"] : [];
    return () => {
      found.replaceChildren(...rows.map((label) => {
        const button = element("button", { type: "button" }, title(label), idOf(label));
        button.addEventListener("click", () => { found.replaceChildren(); input.value = title(label); choose(label); });
        return element("li", {}, button);
      }));
      if (query && !rows.length) found.append(element("li", { className: "note" }, `There is no ${kind} of this name.`));
    };
  });
  input.addEventListener("input", () => { clearTimeout(timer); timer = setTimeout(run, 150); });
  input.addEventListener("keydown", (event) => {
    if (event.key === "Enter") found.querySelector("button")?.click();
    if (event.key === "Escape") found.replaceChildren();
  });
}

function remember() {
  const parts = new URLSearchParams();
  if (state.user) parts.set("user", state.user.id);
  if (state.item) parts.set("item", state.item.id);
  history.replaceState(null, "", "#" + parts);
}

function chooseUser(label) {
  state.user = label;
  remember();
  showList();
  if (state.item) showItem();
}

function chooseItem(label) {
  state.item = label;
  remember();
  for (const button of document.querySelectorAll("#list button")) {
    button.setAttribute("aria-pressed", String(button.dataset.id === label.id));
  }
  showItem();
}

// --- the list of a user -----------------------------------------------------------------------------------------------

function listed(rows, chosen) {
  return element("ol", {}, ...rows.map((row) => {
    const button = element("button", { type: "button" }, title(row), idOf(row));
    button.dataset.id = row.id;
    button.setAttribute("aria-pressed", String(chosen !== null && chosen.id === row.id));
    button.addEventListener("click", () => { byId("item-query").value = title(row); chooseItem({ id: row.id, name: row.name }); });
    return element("li", { className: "row" },
      element("span", { className: "rank" }, String(row.rank)), button,
      element("span", { className: "number" }, number(row.score)));
  }));
}

function showList() {
  latest("list", async () => {
    const answer = await ask("/recommend", { user: state.user.id, k: LIST_LENGTH });
    return () => byId("list").replaceChildren(
      element("h2", {}, "For " + title(answer.user), idOf(answer.user)),
      element("p", { className: "note" }, "Choose an item to see why it is here."),
      ...answer.notes.map((note) => element("p", { className: "note" }, note)),
      listed(answer.items, state.item));
  });
}

// --- one item ---------------------------------------------------------------------------------------------------------

function showItem() {
  latest("item", async () => {
    const { user, item, about } = state;
    const why = user && about.explains ? ask("/explain", { user: user.id, item: item.id, top: TABLE_ROWS }) : null;
    const alike = about.similar ? ask("/similar", { item: item.id, k: TABLE_ROWS }) : null;
    const [explained, similar, place] = await Promise.all([why, alike, ask("/hierarchy", { item: item.id })]);
    return () => {
      const narrow = byId("item").offsetTop > byId("list").offsetTop;  // the one below the other
      byId("item").replaceChildren(
        element("h2", {}, title(item), idOf(item)),
        ...(explained ? explanation(explained) : [element("p", { className: "note" }, hint(about))]),
        ...hierarchy(place),
        ...(similar ? [element("h3", {}, "Similar items"), listed(similar.items, null)] : []));
      if (narrow && byId("list").hasChildNodes()) byId("item").scrollIntoView();
    };
  });
}

const hint = (about) => about.explains
  ? "Choose a user to see why the item is, or is not, in the user's list."
  : `The model ${about.model} does not take its scores apart, so there is no explanation.`;

function table(heading, columns, rows) {
  if (!rows.length) return [];
  const cells = (tag, values) => values.map((value, place) => {
    const last = place >= values.length - 2;
    return element(tag, { className: last ? "number" : "" }, value);
  });
  return [element("h3", {}, heading), element("div", { className: "wide" }, element("table", {},
    element("thead", {}, element("tr", {}, ...cells("th", [...columns, "adds", "share"]))),
    element("tbody", {}, ...rows.map((row) => element("tr", {}, ...cells("td", row))))))];
}

const amount = (row) => [number(row.contribution), percent(row)];
const rest = (part, columns) => part.others.count
  ? [[`${part.others.count} others`, ...Array(columns - 1).fill(""), ...amount(part.others)]] : [];
const named = (row, what) => title({ id: row[what + "_id"], name: row[what + "_name"] });
const arrow = (fact, back = false) => (fact.inverse === back ? `–${fact.relation}→` : `←${fact.relation}–`);

function explanation(why) {
  const past = why.past_items.rows.map((row) => [named(row, "item"), ...amount(row)]);
  const own = [["the user's own parameters", ...amount(why.user_own)]];
  const known = why.user_facts.all.count ? [["the user's facts and links", ...amount(why.user_facts.all)]] : [];
  const facts = why.facts.rows.map((row) => [`${arrow(row)} ${named(row, "entity")}`, ...amount(row)]);
  const users = why.users.rows.map((row) => [named(row, "user"), ...amount(row)]);
  const kinds = Object.values(why.paths).flatMap((part) => part.rows);
  const paths = kinds.sort((a, b) => b.contribution - a.contribution).slice(0, TABLE_ROWS).map((row) => [way(row), ...amount(row)]);
  return [
    element("p", {}, `Score ${number(why.score)} for ${title(why.user)}, place ${why.rank} of ${why.ranked_items} items. ` +
      "Both the parts of the score and what the user has add up to it."),
    ...table("Parts of the score", ["part"], why.components.map((row) => [row.component, ...amount(row)])),
    ...table("By what the user has", ["past item"], [...past, ...rest(why.past_items, 1), ...known, ...own]),
    ...table("What the user's items share with it", ["path"], paths),
    ...table("Facts of the item", ["fact"], [...facts, ...rest(why.facts, 1)]),
    ...table("Users of the item", ["user"], [...users, ...rest(why.users, 1)]),
  ];
}

function way(row) {
  if (row.user) return `${title(row.past_item)} – ${title(row.user)} – the item`;
  return `${title(row.past_item)} ${arrow(row.past_fact)} ${title(row.entity)} ${arrow(row.item_fact, true)} the item`;
}

function hierarchy(place) {
  const far = (step) => (step.distance === null ? "" : ` (${number(step.distance, 2)})`);
  const paths = place.paths.map((path) => element("p", { className: "path" }, ...path.flatMap((step) => [
    element("span", { className: "note" }, ` ${step.relation} → `),
    element("span", { className: "step" }, title(step) + far(step))])));
  const about = place.distance === null ? "" : `It lies ${number(place.distance, 2)} from the origin; numbers in brackets are those of what stands above it.`;
  return [element("h3", {}, "Where it lies in the hierarchy"), element("p", { className: "note" }, about),
    ...(paths.length ? paths : [element("p", { className: "note" }, "Nothing stands above it.")]),
    ...(place.more ? [element("p", { className: "note" }, "There are more paths.")] : [])];
}

// --- the start ----------------------------------------------------------------------------------------------------------

async function begin() {
  const about = (state.about = await ask("/about", {}));
  const epoch = about.epoch === null ? "" : `, epoch ${about.epoch}`;
  byId("about").textContent = `Run ${about.run}: model ${about.model}${epoch}, ${about.counts.users.toLocaleString("en")} users, ` +
    `${about.counts.items.toLocaleString("en")} items, loaded ${about.loaded}. ${about.notes.join(" ")}`;
  search("user", chooseUser);
  search("item", chooseItem);
  const given = new URLSearchParams(location.hash.slice(1));
  for (const [kind, choose] of [["user", chooseUser], ["item", chooseItem]]) {
    if (!given.get(kind)) continue;
    const rows = (await ask("/" + kind + "s", { query: given.get(kind), k: 1 }))[kind + "s"];
    if (rows.length && rows[0].id === given.get(kind)) { byId(kind + "-query").value = title(rows[0]); choose(rows[0]); }
  }
}
begin().catch(show);
