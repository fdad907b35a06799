// Small words of the page's other scripts: finding and showing elements, and numbers as text.

export const find = (selector, inside = document) => inside.querySelector(selector);
export const show = (element, visible = true) => { element.hidden = !visible; };
export const say = (text) => { find("#status").textContent = text; };
export const pause = (seconds) => new Promise((resolve) => setTimeout(resolve, 1000 * seconds));

export const percent = (value) => {
  const shown = 100 * value;
  if (shown >= 99.95 && value < 1) return "> 99.9 %";
  if (shown < 0.05 && value > 0) return "< 0.1 %";
  return `${shown.toFixed(1)} %`;
};

export const count = (number, word) => `${number} ${word}${number === 1 ? "" : "s"}`;
