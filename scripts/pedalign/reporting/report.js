"use strict";
// The transcripts of the report page. All text of tutors and students is set as text, never as HTML.
(async () => {
  const bytes = Uint8Array.from(atob(document.getElementById("talks").textContent), (c) => c.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  const data = await new Response(stream).json();
  const at = (id) => document.getElementById(id);
  const PAGE = 100; // replies that are listed at a time
  let shown = PAGE;
  let found = []; // what the filters leave
  let open = null; // the reply that is shown: its id and turn
  let unfolded = false; // whether the turns before it are

  const make = (tag, properties, ...children) => {
    const node = Object.assign(document.createElement(tag), properties);
    node.append(...children);
    return node;
  };
  const options = (select, entries) => {
    const chosen = select.value;
    select.replaceChildren(...entries.map(([value, text]) => make("option", { value, textContent: text })));
    if (entries.some(([value]) => String(value) === chosen)) select.value = chosen;
  };
  const field = () => data.fields[at("field").value];
  const labelOptions = () => {
    const labels = Object.entries(field().labels).map(([label, meaning]) => [label, `${label}: ${meaning}`]);
    options(at("gold"), [["", "any"], ...labels]);
    options(at("given"), [["", "any"], ...labels, ["none", "none"]]);
  };
  const outcomeOptions = () => {
    const [first, second] = [data.tutors[at("left").value], data.tutors[at("right").value]];
    options(at("outcome"), [
      ["all", "all replies"], ["gained", `${first} wrong, ${second} right`], ["lost", `${first} right, ${second} wrong`],
      ["both", "both right"], ["neither", "both wrong"], ["differ", "their labels differ"],
      ["defect", "one is not in valid format"],
    ]);
  };
  options(at("left"), data.tutors.map((name, number) => [number, name]));
  options(at("right"), data.tutors.map((name, number) => [number, name]));
  [at("left").value, at("right").value] = data.compared;
  options(at("field"), data.fields.map(({ name }, number) => [number, name]));
  at("field").value = data.main;
  labelOptions();
  outcomeOptions();

  const everything = data.conversations.flatMap((talk) => talk.turns.map((turn, place) => ({ talk, turn, place })));
  const isScored = (turn) => (turn.turn > 0 || data.first) && !turn.gold.defect;
  const scored = everything.filter(({ turn }) => isScored(turn));
  const isRight = (turn, tutor, key) => turn.replies[tutor].labels[key] === turn.gold.labels[key];
  const link = ({ talk, turn }) => `#reply=${encodeURIComponent(talk.id)}:${turn.turn}`;
  const isOpen = ({ talk, turn }) => Boolean(open) && talk.id === open.id && turn.turn === open.turn;
  const linked = () => {
    const match = /^#reply=(.*):(\d+)$/.exec(location.hash);
    try {
      return match && { id: decodeURIComponent(match[1]), turn: Number(match[2]) };
    } catch {
      return null;
    }
  };

  const filter = () => {
    const [left, right, gold, given, outcome] = ["left", "right", "gold", "given", "outcome"].map((id) => at(id).value);
    const { key } = field();
    const among = ["gained", "lost", "both", "neither", "differ"].includes(outcome) ? scored : everything;
    found = among.filter(({ turn }) => {
      if (gold && turn.gold.labels[key] !== gold) return false;
      if (given && (turn.replies[right].labels[key] ?? "none") !== given) return false;
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
    const of = among === scored ? "replies that are scored" : "replies";
    at("count").textContent = `${found.length.toLocaleString("en")} of ${among.length.toLocaleString("en")} ${of}`;
  };

  const pair = () => [...new Set([at("left").value, at("right").value])];
  const sign = (turn, tutor, key) => (isScored(turn) ? (isRight(turn, tutor, key) ? "✓ " : "✗ ") : "");
  const inWords = (label) => (label === null ? `no valid ${field().key}` : field().labels[label]);
  const list = () => {
    const { key } = field();
    shown = Math.max(shown, PAGE * Math.ceil((found.findIndex(isOpen) + 1) / PAGE));
    at("more").hidden = found.length <= shown;
    at("list").replaceChildren(...found.slice(0, shown).map((one) => {
      const given = pair().map((tutor) => make("small", { textContent:
        `${data.tutors[tutor]}: ${sign(one.turn, tutor, key)}${inWords(one.turn.replies[tutor].labels[key])}` }));
      const words = one.turn.student.length > 60 ? `${one.turn.student.slice(0, 60)} …` : one.turn.student;
      const gold = make("small", { textContent: `gold reply: ${inWords(one.turn.gold.labels[key])}` });
      const anchor = make("a", { href: link(one), tabIndex: -1 },
        make("span", { textContent: `${one.talk.id}, turn ${one.turn.turn}` }), make("small", { textContent: `“${words}”` }), gold, ...given);
      return make("li", {}, anchor);
    }));
    if (!found.length) at("list").append(make("li", { textContent: "No reply is like that." }));
  };

  // Marks the open reply's row. One row is in the order of Tab; the arrow keys go to the others.
  const mark = () => {
    const rows = [...at("list").querySelectorAll("a")];
    const current = found.findIndex(isOpen);
    rows.forEach((row, number) => {
      row.tabIndex = number === Math.max(current, 0) ? 0 : -1;
      if (number === current) row.setAttribute("aria-current", "true");
      else row.removeAttribute("aria-current");
    });
    const [box, row] = [at("list"), rows[current]];
    if (row && (row.offsetTop < box.scrollTop || row.offsetTop + row.offsetHeight > box.scrollTop + box.clientHeight))
      box.scrollTop = row.offsetTop - box.clientHeight / 3;
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
  const said = (who, text, ...more) =>
    make("div", { className: who === "student" ? "said student" : "said" }, make("b", { textContent: who }), text, ...more);
  const turning = () => {
    const place = found.findIndex(isOpen);
    if (place < 0) return make("p", { className: "soft", textContent: "This reply is not among those that are listed." });
    const go = (text, to) => make("button", { type: "button", textContent: text, disabled: !found[to],
      onclick: () => { location.hash = link(found[to]); } });
    return make("div", { className: "turning" }, go("previous reply", place - 1), go("next reply", place + 1));
  };

  const show = () => {
    const one = open && everything.find(isOpen);
    if (!one) {
      at("talk").replaceChildren(...(open ? [make("p", { textContent: `There is no reply ${open.id}, turn ${open.turn}.` })] : []));
      return;
    }
    const { talk, turn, place } = one;
    const nodes = [make("h3", { id: "talk-name", tabIndex: -1, textContent: `${talk.id}, turn ${turn.turn}` }), turning()];
    const before = talk.turns.slice(0, place).flatMap((earlier) =>
      [said("student", earlier.student), said("tutor (gold)", earlier.gold.text)]);
    if (before.length) {
      const name = before.length > 2 ? `the ${place} turns before` : "the turn before";
      const folded = make("details", { open: unfolded }, make("summary", { textContent: name }), ...before);
      folded.addEventListener("toggle", () => { unfolded = folded.open; });
      nodes.push(folded);
    }
    nodes.push(said("student", turn.student));
    nodes.push(said("gold reply", turn.gold.text, make("div", {}, ...labels(turn.gold))));
    if (!isScored(turn)) nodes.push(make("p", { className: "soft", textContent: "Replies to this turn are not scored." }));
    const chosen = pair();
    const readable = chosen.every((tutor) => !turn.replies[tutor].defect);
    chosen.forEach((tutor, number) => {
      const reply = turn.replies[tutor];
      const other = turn.replies[chosen[1 - number] ?? tutor];
      const defect = reply.defect ? [make("div", { className: "wrong", textContent: `can't be read: ${reply.defect}` })] : [];
      nodes.push(said(data.tutors[tutor], "", ...(readable ? marked(reply.text, other.text) : [reply.text]), ...defect,
        make("div", {}, ...labels(reply, isScored(turn) ? turn.gold : null))));
    });
    at("talk").replaceChildren(...nodes);
  };

  const draw = () => { list(); mark(); show(); };

  // Another list: the open reply stays where it is among them, else the first one is opened.
  const renew = () => {
    shown = PAGE;
    filter();
    if (!found.some(isOpen)) {
      open = found.length ? { id: found[0].talk.id, turn: found[0].turn.turn } : null;
      history.replaceState(null, "", open ? link(found[0]) : "#transcripts");
    }
    draw();
  };
  const arrive = () => {
    const name = at("talk-name");
    if (!name) return;
    name.focus({ preventScroll: true });
    const { top, bottom } = name.getBoundingClientRect();
    if (top < 0 || bottom > 0.8 * innerHeight) name.scrollIntoView({ block: "start" });
  };

  for (const id of ["gold", "given", "outcome"]) at(id).addEventListener("change", renew);
  for (const id of ["left", "right"]) at(id).addEventListener("change", () => { outcomeOptions(); renew(); });
  at("field").addEventListener("change", () => { labelOptions(); renew(); });
  const leaveNothingOut = () => {
    [at("gold").value, at("given").value, at("outcome").value] = ["", "", "all"];
  };
  at("all").addEventListener("click", () => {
    leaveNothingOut();
    renew();
  });
  at("more").addEventListener("click", () => {
    const first = shown;
    shown += PAGE;
    list();
    mark();
    at("list").querySelectorAll("a")[first].focus();
  });
  at("list").addEventListener("keydown", (event) => {
    const rows = [...at("list").querySelectorAll("a")];
    const place = rows.indexOf(document.activeElement);
    const to = { ArrowDown: place + 1, ArrowUp: place - 1, Home: 0, End: rows.length - 1 }[event.key];
    if (place < 0 || to === undefined) return;
    event.preventDefault();
    rows[to]?.focus();
  });
  addEventListener("hashchange", () => {
    const asked = linked();
    if (!asked) return; // a section's
    open = asked;
    if (!found.some(isOpen)) {
      leaveNothingOut();
      filter();
      list();
    } else if (found.findIndex(isOpen) >= shown) list();
    mark();
    show();
    arrive();
  });
  // On paper nothing can be unfolded.
  addEventListener("beforeprint", () => document.querySelectorAll("details").forEach((one) => { one.open = true; }));

  // Begin with the replies by which the compared tutors can be told apart, unless a link names another one.
  open = linked();
  at("outcome").value = "differ";
  filter();
  if (!found.length || (open && !found.some(isOpen))) {
    leaveNothingOut();
    filter();
  }
  open ??= (found.length ? { id: found[0].talk.id, turn: found[0].turn.turn } : null);
  draw();
  if (linked()) arrive();
})();
