"use strict";
// The transcripts of the report page. All text of tutors and students is set as text, never as HTML.
(async () => {
  const bytes = Uint8Array.from(atob(document.getElementById("talks").textContent), (c) => c.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  const data = await new Response(stream).json();
  const at = (id) => document.getElementById(id);
  const PAGE = 100;
  let shown = PAGE;

  const make = (tag, properties, ...children) => {
    const node = Object.assign(document.createElement(tag), properties);
    node.append(...children);
    return node;
  };
  const options = (select, entries) =>
    select.replaceChildren(...entries.map(([value, text]) => make("option", { value, textContent: text })));

  options(at("left"), data.tutors.map((name, number) => [number, name]));
  options(at("right"), data.tutors.map((name, number) => [number, name]));
  at("right").value = Math.min(1, data.tutors.length - 1);
  options(at("field"), data.fields.map((field, number) => [number, field.name]));
  at("field").value = data.main;
  options(at("outcome"), [
    ["all", "all replies"], ["gained", "left wrong, right right"], ["lost", "left right, right wrong"],
    ["both", "both right"], ["neither", "both wrong"], ["differ", "labels differ"], ["defect", "a reply that can't be read"],
  ]);
  const goldLabels = () => options(at("gold"), [["", "any"],
    ...Object.entries(data.fields[at("field").value].labels).map(([label, meaning]) => [label, `${label}: ${meaning}`])]);
  goldLabels();

  const everything = data.conversations.flatMap((talk, number) => talk.turns.map((turn, place) => ({ talk, number, turn, place })));
  const isRight = (turn, tutor, key) => turn.replies[tutor].labels[key] === turn.gold.labels[key];

  const listed = () => {
    const [left, right] = [at("left").value, at("right").value];
    const key = data.fields[at("field").value].key;
    const gold = at("gold").value;
    const outcome = at("outcome").value;
    return everything.filter(({ turn }) => {
      if (gold && turn.gold.labels[key] !== gold) return false;
      const [a, b] = [isRight(turn, left, key), isRight(turn, right, key)];
      switch (outcome) {
        case "gained": return !a && b;
        case "lost": return a && !b;
        case "both": return a && b;
        case "neither": return !a && !b;
        case "differ": return turn.replies[left].labels[key] !== turn.replies[right].labels[key];
        case "defect": return Boolean(turn.replies[left].defect || turn.replies[right].defect);
        default: return true;
      }
    });
  };

  const link = ({ talk, turn }) => `#reply=${encodeURIComponent(talk.id)}:${turn.turn}`;
  const opened = () => {
    const match = /^#reply=(.*):(\d+)$/.exec(location.hash);
    return match && { id: decodeURIComponent(match[1]), turn: Number(match[2]) };
  };

  const list = () => {
    const found = listed();
    at("count").textContent = `${found.length} of ${everything.length} replies`;
    at("more").hidden = found.length <= shown;
    const open = opened();
    at("list").replaceChildren(...found.slice(0, shown).map((one) => {
      const anchor = make("a", { href: link(one), textContent: `${one.talk.id}, turn ${one.turn.turn}` });
      if (open && open.id === one.talk.id && open.turn === one.turn.turn) anchor.setAttribute("aria-current", "true");
      return make("li", {}, anchor);
    }));
  };

  // The words of `text` as nodes, those that are not in a longest common sequence with `other` marked.
  const marked = (text, other) => {
    const [a, b] = [text.split(/(\s+)/), other.split(/(\s+)/)];
    if (a.length * b.length > 1e6) return [text];
    const length = Array.from({ length: a.length + 1 }, () => new Uint16Array(b.length + 1));
    for (let i = a.length - 1; i >= 0; i--)
      for (let j = b.length - 1; j >= 0; j--)
        length[i][j] = a[i] === b[j] ? length[i + 1][j + 1] + 1 : Math.max(length[i + 1][j], length[i][j + 1]);
    const nodes = [];
    for (let i = 0, j = 0; i < a.length; i++) {
      while (j < b.length && a[i] !== b[j] && length[i][j + 1] >= length[i + 1][j]) j++;
      if (j < b.length && a[i] === b[j]) { nodes.push(a[i]); j++; }
      else nodes.push(a[i].trim() ? make("mark", { textContent: a[i] }) : a[i]);
    }
    return nodes;
  };

  const labels = (reply, gold) => data.fields.map(({ key, name, labels: meanings }) => {
    const label = reply.labels[key];
    const meaning = label === null ? "none" : `${label}: ${meanings[label]}`;
    if (!gold) return make("span", { className: "label", textContent: `${name} ${meaning}` });
    const right = label === gold.labels[key];
    return make("span", { className: `label ${right ? "right" : "wrong"}`, textContent: `${right ? "✓" : "✗"} ${name} ${meaning}` });
  });

  const show = () => {
    const open = opened();
    if (!open) return;
    const talk = data.conversations.find(({ id }) => id === open.id);
    const last = talk && talk.turns.findIndex(({ turn }) => turn === open.turn);
    if (!talk || last < 0) return;
    const nodes = [make("h3", { textContent: `${talk.id}, turn ${open.turn}` })];
    const said = (who, text, ...more) =>
      make("div", { className: who === "student" ? "said student" : "said" }, make("b", { textContent: who }), text, ...more);
    const before = talk.turns.slice(0, last).flatMap((turn) => [said("student", turn.student), said("tutor (gold)", turn.gold.text)]);
    if (before.length) nodes.push(make("details", {}, make("summary", { textContent: `the ${before.length} turns before` }), ...before));
    nodes.push(said("student", talk.turns[last].student));
    const turn = talk.turns[last];
    nodes.push(said("gold reply", turn.gold.text, make("div", {}, ...labels(turn.gold))));
    const chosen = [...new Set([at("left").value, at("right").value])];
    chosen.forEach((tutor, number) => {
      const reply = turn.replies[tutor];
      const other = turn.replies[chosen[1 - number] ?? tutor];
      const defect = reply.defect ? [make("div", { className: "wrong", textContent: `can't be read: ${reply.defect}` })] : [];
      nodes.push(said(data.tutors[tutor], "", ...marked(reply.text, other.text), ...defect,
        make("div", {}, ...labels(reply, turn.gold))));
    });
    at("talk").replaceChildren(...nodes);
  };

  const renew = () => { shown = PAGE; list(); show(); };
  for (const id of ["left", "right", "gold", "outcome"]) at(id).addEventListener("change", renew);
  at("field").addEventListener("change", () => { goldLabels(); renew(); });
  at("more").addEventListener("click", () => { shown += PAGE; list(); });
  addEventListener("hashchange", () => { list(); show(); });
  list();
  show();
})();
