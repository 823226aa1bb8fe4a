// Chromium without a window.
//
// CHROMIUM is the browser's program; if it is not set, Debian's headless shell, or else Chromium. The
// headless shell is the same browser without its windows, and takes a third of the CPU time.

import { existsSync } from "node:fs";

import { chromium } from "playwright-core";

const PROGRAMS = ["/usr/bin/chromium-headless-shell", "/usr/bin/chromium"];

const FLAGS = [
  "--no-sandbox",
  "--disable-gpu",
  "--disable-quic",
  "--no-first-run",
  "--disable-background-networking",
  "--disable-component-update",
  "--disable-sync",
];

export const launch = () =>
  chromium.launch({ executablePath: process.env.CHROMIUM || PROGRAMS.find(existsSync), args: FLAGS });
