// Elements from text nodes only: no markup is ever parsed, so that a name from a file stays a name.

export function el(tag, props, ...children) {
  const node = document.createElement(tag);
  setProps(node, props);
  put(node, children);
  return node;
}

export function svg(tag, props, ...children) {
  const node = document.createElementNS("http://www.w3.org/2000/svg", tag);
  setProps(node, props);
  put(node, children);
  return node;
}

function setProps(node, props) {
  for (const [name, value] of Object.entries(props || {})) {
    if (value === null || value === undefined || value === false) continue;
    if (name === "test") node.setAttribute("data-testid", value);
    else if (name === "on") {
      for (const [event, listener] of Object.entries(value)) node.addEventListener(event, listener);
    } else node.setAttribute(name, value === true ? "" : String(value));
  }
}

export function put(node, children) {
  for (const child of children.flat(Infinity)) {
    if (child === null || child === undefined || child === false) continue;
    node.append(child instanceof Node ? child : document.createTextNode(String(child)));
  }
  return node;
}

export function fill(node, ...children) {
  node.replaceChildren();
  return put(node, children);
}

// A name from outside: its direction marks act inside it only.
export function name(text, props) {
  return el("bdi", props, text);
}

export function card(title, props, ...children) {
  return el("section", { class: "card", ...props }, el("h2", {}, title), ...children);
}

export function emptyNote(text) {
  return el("p", { class: "empty" }, text);
}

export function table(columns, rows, props) {
  const head = el("tr", {}, columns.map((column) => el("th", { scope: "col", class: column.number && "number" }, column.title)));
  return el("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": (props && props.label) || "table" },
    el("table", { test: props && props.test }, el("thead", {}, head), el("tbody", {}, rows)));
}
