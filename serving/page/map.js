// Draws what the model looked at over a picture.

const WEAK_DROP = 0.02; // in probability: below it, no part matters

function extremes(grid) {
  const values = grid.flat();
  return { most: Math.max(...values), least: Math.min(...values) };
}

// Tell whether no single part matters.
export function isWeak(grid) {
  const { most, least } = extremes(grid);
  return most < WEAK_DROP && least > -WEAK_DROP;
}

// Say what the map's colours mean, and how much they are worth.
export function legend(found) {
  const { most, least } = extremes(found.grid);
  const points = (value) => `${(100 * value).toFixed(value < 0.1 ? 1 : 0)} points`;
  if (isWeak(found.grid)) {
    return `No part alone decides: covering any one changes the probability of ${found.label} by less than ${points(WEAK_DROP)}.`;
  }
  const drops = `Orange: covered, it lowers the probability of ${found.label}, by up to ${points(Math.max(most, 0))}.`;
  return least <= -WEAK_DROP ? `${drops} Blue: covered, it raises it, by up to ${points(-least)}.` : drops;
}

// Where on the picture lies the square that the model sees? As contract/decoding.py cuts it.
export function seenBox(fit, width, height, model) {
  if (fit === "squash") return { left: 0, top: 0, width, height };
  if (fit === "pad") {
    const side = Math.max(width, height);
    return { left: (width - side) / 2, top: (height - side) / 2, width: side, height: side };
  }
  const side = Math.min(width, height) * (model.image_size / (model.card.storage_size || model.image_size));
  return { left: (width - side) / 2, top: (height - side) / 2, width: side, height: side };
}

export function drawMap(canvas, grid, seen) {
  const size = grid.length;
  const small = document.createElement("canvas");
  small.width = small.height = size;
  const pixels = small.getContext("2d").createImageData(size, size);
  const largest = Math.max(...grid.flat().map(Math.abs), WEAK_DROP);
  grid.flat().forEach((drop, index) => {
    const strength = Math.min(1, Math.abs(drop) / largest);
    pixels.data.set(drop > 0 ? [255, 106, 0] : [0, 120, 255], 4 * index);
    pixels.data[4 * index + 3] = Math.round(190 * strength);
  });
  small.getContext("2d").putImageData(pixels, 0, 0);
  const context = canvas.getContext("2d");
  context.clearRect(0, 0, canvas.width, canvas.height);
  context.fillStyle = "rgba(0, 0, 0, 0.55)"; // the model does not see this margin
  context.fillRect(0, 0, canvas.width, canvas.height);
  context.clearRect(seen.left, seen.top, seen.width, seen.height);
  context.drawImage(small, seen.left, seen.top, seen.width, seen.height);
}
