"use strict";
(() => {
  const { head, rows } = JSON.parse(document.getElementById("data").textContent);
  const PAGE = 25;
  const byId = (id) => document.getElementById(id);
  const make = (tag, className, text) => {
    const node = document.createElement(tag);
    if (className) node.className = className;
    if (text !== undefined) node.textContent = text;
    return node;
  };
  const right = (row, system) => row[4][system][0] === row[2];
  const all = head.systems.map((_, i) => i);
  const choices = [
    ["everything", () => true],
    ["systems disagree", (row) => new Set(row[4].map((a) => a[0])).size > 1],
    ["everyone is wrong", (row) => all.every((i) => !right(row, i))],
    ["everyone is right", (row) => all.every((i) => right(row, i))],
  ];
  for (const i of all) choices.push([`${head.systems[i]} is wrong`, (row) => !right(row, i)]);
  for (const i of all) choices.push([`only ${head.systems[i]} is right`, (row) => all.every((j) => right(row, j) === (i === j))]);
  for (const i of all) if (i) choices.push([`${head.systems[0]} right, ${head.systems[i]} wrong`, (row) => right(row, 0) && !right(row, i)]);
  for (const i of all) if (i) choices.push([`${head.systems[0]} wrong, ${head.systems[i]} right`, (row) => !right(row, 0) && right(row, i)]);
  if (rows.some((row) => row[4].some((a) => a[0] < 0))) choices.push(["an answer is unreadable", (row) => row[4].some((a) => a[0] < 0)]);

  const who = byId("who"), gold = byId("gold"), find = byId("find"), list = byId("list");
  choices.forEach(([name], i) => who.append(new Option(name, i)));
  gold.append(new Option("any label", -1));
  head.labels.forEach((name, i) => gold.append(new Option(name, i)));

  const bars = (probabilities) => {
    const box = make("span", "bars");
    box.title = head.labels.map((name, i) => `${name} ${(probabilities[i] ?? 0).toFixed(2)}`).join(", ");
    box.setAttribute("role", "img");
    box.setAttribute("aria-label", box.title);
    probabilities.forEach((p, i) => { const bar = make("i", `l${i % 6}`); bar.style.width = `${100 * p}%`; box.append(bar); });
    return box;
  };
  const answerRow = (name, answer, goldLabel) => {
    const [label, probabilities, rationale, raw] = answer;
    const line = make("tr"), said = make("td", `label ${label === goldLabel ? "yes" : "no"}`), chances = make("td");
    said.textContent = `${label === goldLabel ? "\u2713" : "\u2717"} ${label < 0 ? "unreadable" : head.labels[label]}`;
    if (probabilities) {
      chances.append(bars(probabilities), ` ${Math.max(...probabilities).toFixed(2)}`);
      chances.className = "label";
    }
    const name_ = make("th", "", name);
    name_.scope = "row";
    line.append(name_, said, chances, make("td", "", rationale || (raw ? `said: ${raw}` : "")));
    return line;
  };
  const open = (row) => {
    const box = make("div", "answers");
    const told = make("p", "", `gold: ${head.labels[row[2]]}${row[3] ? `, ${row[3]} % of annotators agree` : ""} \u00b7 ${row[0]}`);
    if (row[4].some((a) => a[1])) head.labels.forEach((name, i) => told.append(make("i", `swatch l${i % 6}`), name));
    box.append(told);
    const table = make("table"), body = make("tbody"), scroll = make("div", "scroll");
    row[4].forEach((answer, i) => body.append(answerRow(head.systems[i], answer, row[2])));
    if (row[5]) body.append(answerRow("teacher's answer", row[5], row[2]));
    table.append(body);
    scroll.append(table);
    box.append(scroll);
    return box;
  };
  const item = (row) => {
    const node = make("li"), details = make("details"), summary = make("summary"), pips = make("span", "wrongs");
    all.forEach((i) => {
      const ok = right(row, i), pip = make("span", ok ? "pip" : "pip no", ok ? "" : "\u00d7");
      pip.title = `${head.systems[i]}: ${ok ? "right" : "wrong"}`;
      pips.append(pip);
    });
    pips.setAttribute("role", "img");
    pips.setAttribute("aria-label", all.filter((i) => !right(row, i)).map((i) => `${head.systems[i]} wrong`).join(", ") || "all right");
    summary.append(make("span", "said", row[1]), pips);
    details.append(summary);
    details.addEventListener("toggle", () => { if (details.open && details.children.length < 2) details.append(open(row)); });
    node.append(details);
    return node;
  };

  let found = [], shown = 0;
  const more = () => {
    const from = shown;
    list.append(...found.slice(shown, shown + PAGE).map(item));
    shown = Math.min(shown + PAGE, found.length);
    byId("pager").hidden = shown >= found.length;
    return list.children[from];
  };
  const filter = () => {
    const test = choices[Number(who.value)][1], label = Number(gold.value), words = find.value.toLowerCase().trim();
    found = rows.filter((row) => test(row) && (label < 0 || row[2] === label) && (!words || row[1].toLowerCase().includes(words) || row[0].toLowerCase() === words));
    shown = 0;
    list.replaceChildren();
    byId("count").textContent = `${found.length.toLocaleString("en")} of ${rows.length.toLocaleString("en")} texts`;
    more();
  };
  let waiting;
  who.addEventListener("change", filter);
  gold.addEventListener("change", filter);
  find.addEventListener("input", () => { clearTimeout(waiting); waiting = setTimeout(filter, 120); });
  byId("filters").addEventListener("submit", (event) => event.preventDefault());
  byId("more").addEventListener("click", () => more()?.querySelector("summary").focus());
  byId("filters").hidden = false;
  filter();
})();
