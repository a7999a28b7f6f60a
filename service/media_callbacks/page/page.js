// Keeps what is marked as live up to date while somebody looks: the same address is asked for again, and what has
// changed is put in its place. Without it, or while it fails, the page is as good as when it was loaded.
"use strict";

const EVERY_MS = 5000;
const SLOW_MS = 30000;
const freshness = document.getElementById("freshness");
let timer = null;
let failures = 0;

function parts(root) {
  return [...root.querySelectorAll("[data-live]")];
}

function isInUse(part) {
  const selection = document.getSelection();
  const isSelecting = selection && !selection.isCollapsed && part.contains(selection.anchorNode);
  return isSelecting || part.contains(document.activeElement);
}

async function refresh() {
  const answer = await fetch(location.href, { headers: { "X-Part": "1" }, cache: "no-store", redirect: "manual" });
  // Signed out, here or in another tab: asked to sign in instead.
  if (answer.type === "opaqueredirect") {
    location.reload();
    return;
  }
  if (!answer.ok) throw new Error(String(answer.status));
  const fresh = new DOMParser().parseFromString(await answer.text(), "text/html");
  for (const part of parts(document)) {
    const other = fresh.getElementById(part.id);
    if (other && !isInUse(part) && other.innerHTML !== part.innerHTML) {
      const left = part.scrollLeft;
      part.replaceChildren(...other.childNodes);
      part.scrollLeft = left;
    }
  }
}

async function step() {
  timer = null;
  try {
    await refresh();
    failures = 0;
    freshness.textContent = "Live.";
  } catch (error) {
    failures += 1;
    freshness.textContent = "Not live: the service does not answer. This is how it was before.";
  }
  plan();
}

function plan() {
  clearTimeout(timer);
  timer = null;
  if (document.visibilityState !== "visible") return;
  const isSlow = document.querySelector("[data-slow]") !== null;
  // Not all pages at the same moment, and less often where nobody answers.
  timer = setTimeout(step, (isSlow ? SLOW_MS : EVERY_MS) * Math.min(1 + failures, 6) * (0.9 + 0.2 * Math.random()));
}

if (parts(document).length) {
  freshness.textContent = "Live.";
  plan();
  document.addEventListener("visibilitychange", () => {
    if (document.visibilityState !== "visible") plan();
    else if (timer === null) step();
  });
}
