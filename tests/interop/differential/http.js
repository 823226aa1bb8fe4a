// Scripts about what HTTP answers carry: CORS, cookies, JSONP, hooks.

import { script } from "./script.js";

const ONE = { headers: { origin: "https://one.example" } };
const TWO = { headers: { origin: "https://two.example" } };
const OTHER = { headers: { origin: "https://other.example" } };
const ASKED = {
  "access-control-request-method": "POST",
  "access-control-request-headers": "x-any",
};
const HANDSHAKE = "/socket.io/?EIO=4&transport=polling";

export const http = [
  script("no CORS unless it is configured", "default", [
    ["a", "open", ONE],
    ["a", "ask", "OPTIONS", HANDSHAKE, ONE],
  ]),
  script("CORS for any origin", "any origin", [
    ["a", "open", ONE],
    ["a", "post", "40", OTHER],
    ["a", "get", ONE],
    ["b", "open"],
    ["c", "ask", "GET", "/socket.io/?EIO=4", ONE],
    ["d", "ws", ONE],
  ]),
  script("a preflight for any origin", "any origin", [
    ["a", "ask", "OPTIONS", HANDSHAKE, { headers: { ...ONE.headers, ...ASKED } }],
    ["a", "ask", "OPTIONS", HANDSHAKE, ONE],
    ["a", "ask", "OPTIONS", "/socket.io/", ONE],
  ]),
  script("CORS for some origins", "some origins", [
    ["a", "open", ONE],
    ["a", "post", "40", TWO],
    ["a", "get", ONE],
    ["b", "open"],
    ["c", "ask", "GET", "/socket.io/?EIO=4", TWO],
    ["d", "ws", ONE],
  ]),
  script("CORS for another origin", "some origins", [["a", "open", OTHER]]),
  script("a WebSocket from another origin", "some origins", [["a", "ws", OTHER]]),
  script("a WebSocket from another origin where nothing is configured", "default", [
    ["a", "ws", OTHER],
  ]),
  script("a preflight for some origins", "some origins", [
    ["a", "ask", "OPTIONS", HANDSHAKE, { headers: { ...ONE.headers, ...ASKED } }],
    ["a", "ask", "OPTIONS", HANDSHAKE, OTHER],
    ["a", "ask", "OPTIONS", HANDSHAKE],
  ]),
  script("a cookie", "cookie", [
    ["a", "open"],
    ["a", "post", "40"],
    ["a", "get"],
    ["b", "ws"],
    ["c", "ask", "GET", "/socket.io/?EIO=4"],
  ]),
  script("a cookie of one's own", "another cookie", [["a", "open"]]),
  script("a body for JSONP", "jsonp", [
    ["a", "open", { query: "&j=5" }],
    ["a", "post", "d=40", FORM()],
    ["a", "get"],
    ["a", "post", `d=${encodeURIComponent('42["echo","a\u2028b<\\\\n>"]')}`, FORM()],
    ["a", "get"],
    ["a", "post", "x=1", FORM()],
    ["a", "post", `d=${encodeURIComponent('42["echo",1]\x1e42["echo",2]')}`, FORM()],
    ["a", "receive", 2],
  ]),
  script("the index of JSONP has digits only", "jsonp", [
    ["a", "open", { query: "&j=1;alert(1)//2" }],
    ["b", "open", { query: "&j=x" }],
    ["c", "open", { query: "&j=" }],
  ]),
  script("a refusal in JSONP", "jsonp", [["a", "ask", "GET", "/socket.io/?EIO=4&j=1"]]),
  script("an application that allows requests", "hooks", [
    ["a", "open"],
    ["a", "post", "40"],
    ["a", "get"],
    ["b", "open", { headers: { "x-blocked": "yes" } }],
    ["c", "open", { headers: { "x-blocked": "why" } }],
    ["d", "ws"],
    ["a", "post", "4", { headers: { "x-blocked": "yes" } }],
  ]),
  script("an application that forbids a WebSocket", "hooks", [
    ["a", "ws", { headers: { "x-blocked": "yes" } }],
    ["b", "ws", { headers: { "x-blocked": "why" } }],
  ]),
  script("a server that offers no upgrade", "no upgrades", [
    ["a", "open"],
    ["b", "ws"],
  ]),
  script("an upgrade that was not offered", "no upgrades", [
    ["a", "open"],
    ["a", "upgrade"],
    ["a", "post", "40"],
    ["a", "get"],
  ]),
];

function FORM() {
  return { headers: { "content-type": "application/x-www-form-urlencoded" } };
}
