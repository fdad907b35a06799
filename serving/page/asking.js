// Asks the server, waits while it is busy, and asks people for its token.

import { find, pause, say, show } from "./showing.js";

const WAITS = [1, 2, 4, 8, 15]; // seconds between tries while the server is busy or starting

let token = sessionStorage.getItem("token") || "";
let onToken = []; // what waits for a token

export class Refused extends Error {
  constructor(message, status = 0) {
    super(message);
    this.status = status;
  }
}

export async function ask(address, options = {}) {
  for (let attempt = 0; ; attempt += 1) {
    const sent = token;
    const headers = sent ? { Authorization: `Bearer ${sent}` } : {};
    let response;
    try {
      response = await fetch(address, { ...options, headers: { ...options.headers, ...headers } });
    } catch {
      throw new Refused("The server does not answer: is it still running?");
    }
    if (response.status === 401) {
      await newToken(sent);
      attempt = -1;
      continue;
    }
    const said = await response.json().catch(() => ({}));
    if (response.ok) return said;
    const isBusy = response.status === 429 || response.status === 503;
    if (!isBusy || attempt >= WAITS.length) throw new Refused(said.error || `The server failed (${response.status}).`, response.status);
    say(`The server is busy (${said.error || response.status}): asking again.`);
    await pause(WAITS[attempt]);
  }
}

function newToken(refused) {
  if (token !== refused) return Promise.resolve(); // another request got one meanwhile
  const form = find("#token-form");
  if (form.hidden || refused) {
    find("#token-why").textContent = refused ? "This token is not the server's." : "This server asks for its token.";
  }
  const wasHidden = form.hidden;
  show(form);
  if (wasHidden) find("#token").focus();
  return new Promise((resolve) => onToken.push(resolve));
}

find("#token-form").addEventListener("submit", (event) => {
  event.preventDefault();
  const typed = find("#token").value.trim();
  if (/[^\x21-\x7e]/.test(typed)) {
    find("#token-why").textContent = "A token is one word of ASCII characters.";
    return;
  }
  token = typed;
  sessionStorage.setItem("token", token);
  find("#token").value = "";
  show(find("#token-form"), false);
  find("#choose").focus();
  const waiting = onToken;
  onToken = [];
  for (const resolve of waiting) resolve();
});

// Say in plain words what went wrong.
export function inWords(error) {
  if (!(error instanceof Refused)) return `This page failed: ${error.message}`;
  return error.status === 400 ? `The server cannot read this picture: ${error.message}.` : error.message;
}
