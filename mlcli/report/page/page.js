// Values under the pointer, and copying commands. Everything on the page can be read without it.
"use strict";

const make = (name, className, text) => {
  const element = document.createElement(name);
  element.className = className;
  if (text !== undefined) element.textContent = text;
  return element;
};

const nearest = (places, wanted) =>
  places.reduce((best, x, i) => (Math.abs(x - wanted) < Math.abs(places[best] - wanted) ? i : best), 0);

for (const plot of document.querySelectorAll(".plot:not(.bare)")) {
  const lines = JSON.parse(plot.dataset.lines);
  const low = Number(plot.dataset.low), high = Number(plot.dataset.high);
  const rule = plot.appendChild(make("i", "hover-rule"));
  const tip = plot.appendChild(make("div", "tip"));
  const show = (event) => {
    const box = plot.querySelector("svg").getBoundingClientRect();
    const wanted = low + ((event.clientX - box.left) / box.width) * (high - low);
    const coarsest = lines.reduce((a, b) => (b.x.length < a.x.length ? b : a));
    const x = coarsest.x[nearest(coarsest.x, wanted)];
    const share = (x - low) / (high - low);
    tip.replaceChildren(make("div", "at", `${plot.dataset.x} ${Number(x.toFixed(2))}`));
    for (const line of lines) {
      const row = make("div", line.role);
      row.append(make("span", "", line.name), make("b", "", line.shown[nearest(line.x, x)]));
      tip.append(row);
    }
    rule.style.left = `${100 * share}%`;
    tip.style.left = `${100 * share}%`;
    tip.classList.toggle("turned", share > 0.5);
    plot.classList.add("hovered");
  };
  plot.addEventListener("pointermove", show);
  plot.addEventListener("pointerdown", show);
  plot.addEventListener("pointerleave", () => plot.classList.remove("hovered"));
}

// On paper nothing can be opened.
const folded = [...document.querySelectorAll("details:not([open])")];
addEventListener("beforeprint", () => folded.forEach((part) => (part.open = true)));
addEventListener("afterprint", () => folded.forEach((part) => (part.open = false)));

for (const button of document.querySelectorAll("button.copy")) {
  button.addEventListener("click", async () => {
    const code = button.parentElement.querySelector("code");
    try {
      await navigator.clipboard.writeText(code.textContent);
      button.textContent = "copied";
    } catch {
      getSelection().selectAllChildren(code);
      button.textContent = "selected";
    }
    setTimeout(() => (button.textContent = "copy"), 1500);
  });
}
