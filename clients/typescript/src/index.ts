/**
 * What applications do with what the service sends them: is it genuine and fresh, which event is it, and who takes it?
 *
 *     const receiver = new Receiver({ secrets: [process.env.ORDERS_SECRET!] })
 *       .on("animated_image", async (event) => publish(event.data.outputs))
 *       .default((event) => console.log(event.type));
 *
 *     app.post("/media", express.raw({ type: "*\/*" }), async (request, response) => {
 *       try {
 *         await receiver.receive(request.headers, request.body);
 *         response.sendStatus(204);
 *       } catch (error) {
 *         response.sendStatus(error instanceof WebhookVerificationError ? error.status : 500);
 *       }
 *     });
 *
 * An event may come more than once, and a later outcome of the same job is another event with a higher `data.revision`:
 * note `event.id` with the revision in the transaction of what you do, and do nothing for an id that is there, or when
 * another id of the same key, `event.id.slice(0, 36)`, has a higher revision.
 */

import { Webhook, WebhookVerificationError as NotGenuine } from "standardwebhooks";

import { type Data, type MediaEvent, OPERATIONAL_SCHEMA, type OperationalEvent, SCHEMAS } from "./events.js";

export * from "./events.js";

export type Kind = Data["kind"];

/** An event of this kind. */
export type EventOf<K extends Kind | "operational"> = Extract<MediaEvent | OperationalEvent, { data: { kind: K } }>;

/** An event of a later version: of a kind, or of a number of its kind's schema, that this one does not know. */
export interface UnknownEvent {
  id: string;
  source: string;
  type: string;
  dataschema: string;
  data: Record<string, unknown>;
}

/** Headers as Node, Express and the like have them, or those of the Fetch API. */
export type WebhookHeaders = Record<string, string | string[] | undefined> | Iterable<readonly [string, string]>;

/**
 * What came brings no event. `status` is what to answer: 401 where it is not signed with a secret of ours, or not fresh,
 * and 400 where it can't be read.
 */
export class WebhookVerificationError extends Error {
  override readonly name = "WebhookVerificationError";

  constructor(
    message: string,
    readonly status: 400 | 401,
    options?: ErrorOptions,
  ) {
    super(message, options);
  }
}

/** Whether this version knows what the event says. */
export function isKnown(event: MediaEvent | UnknownEvent): event is MediaEvent {
  return Object.values<string>(SCHEMAS).includes(event.dataschema);
}

/**
 * The event of a genuine request, which is at most five minutes old. Nothing but its name is checked of what a genuine
 * event says: the service keeps to its schema.
 *
 * @param body As it came. What a framework made of the JSON has other bytes, which nobody signed.
 * @param secrets `whsec_…` as the sink has them. Any of them is good: give two while one takes the other's place.
 * @throws WebhookVerificationError It is none.
 * @throws RangeError There is no secret, or one that can't be.
 */
export function verify(
  headers: WebhookHeaders,
  body: Uint8Array | string,
  secrets: readonly string[],
): MediaEvent | UnknownEvent {
  return readSigned(headers, body, readSecrets(secrets));
}

type Handler<E> = (event: E) => unknown;

/** Takes what comes, and hands each event to the function that was named for its kind. */
export class Receiver {
  readonly #webhooks: readonly Webhook[];
  readonly #handlers = new Map<string, Handler<never>>();
  #default: Handler<MediaEvent | UnknownEvent> | undefined;

  /** @param options.secrets As `verify` has them; left out where nothing but queues is received from. */
  constructor(options: { secrets?: readonly string[] } = {}) {
    this.#webhooks = options.secrets === undefined ? [] : readSecrets(options.secrets);
  }

  /**
   * Names the function that takes events of a kind, or of any of several; each kind has one. Without one of their own,
   * operational events go where those of later versions do.
   */
  on<K extends Kind | "operational">(kinds: K | readonly K[], handler: Handler<EventOf<K>>): this {
    for (const kind of typeof kinds === "string" ? [kinds] : kinds) {
      if (!(Object.hasOwn(SCHEMAS, kind) || kind === "operational") || this.#handlers.has(kind)) {
        throw new RangeError(`expected a kind without a handler, came ${kind}`);
      }
      this.#handlers.set(kind, handler);
    }
    return this;
  }

  /** Names the function that takes every other event: of kinds without a handler, and of later versions. */
  default(handler: Handler<MediaEvent | UnknownEvent>): this {
    if (this.#default !== undefined) throw new RangeError("expected one default handler, there is one already");
    this.#default = handler;
    return this;
  }

  /**
   * Takes a request, as `verify` does, and lets its handler run. What that throws passes through: let it become a 500, and
   * the event comes again.
   */
  async receive(headers: WebhookHeaders, body: Uint8Array | string): Promise<MediaEvent | UnknownEvent> {
    if (this.#webhooks.length === 0) {
      throw new RangeError("secrets: expected at least one, came none");
    }
    return this.#handle(readSigned(headers, body, this.#webhooks));
  }

  /**
   * Takes what nobody signed, because what it came by proves it: a queue, a stream or an invocation that the service's
   * sink alone can write to. Never the body of a request: anybody can send that.
   *
   * @param body The event as it is, in Base64, or with what SNS, EventBridge or MNS put around it.
   */
  async receiveUnsigned(body: Uint8Array | string): Promise<MediaEvent | UnknownEvent> {
    return this.#handle(readEvent(openEnvelope(decode(body))));
  }

  async #handle(event: MediaEvent | UnknownEvent): Promise<MediaEvent | UnknownEvent> {
    const kind = isKnown(event) ? event.data.kind : event.dataschema === OPERATIONAL_SCHEMA ? "operational" : "";
    const handler = this.#handlers.get(kind);
    await (handler === undefined ? this.#default?.(event) : handler(event as never));
    return event;
  }
}

function readSecrets(secrets: readonly string[]): readonly Webhook[] {
  if (!Array.isArray(secrets) || secrets.length === 0) {
    throw new RangeError("secrets: expected at least one, came none");
  }
  return secrets.map((secret) => {
    const base64 = secret.replace(/^whsec_/, "");
    const bytes = Buffer.from(base64, "base64");
    if (bytes.toString("base64") !== base64 || bytes.length < 24 || bytes.length > 64) {
      throw new RangeError("secrets: expected whsec_ and base64 of 24 to 64 bytes, came something else");
    }
    return new Webhook(base64);
  });
}

function readSigned(
  headers: WebhookHeaders,
  body: Uint8Array | string,
  webhooks: readonly Webhook[],
): MediaEvent | UnknownEvent {
  const signed = readHeaders(headers);
  const text = decode(body);
  let refusal: unknown;
  for (const webhook of webhooks) {
    try {
      return readEvent(webhook.verify(text, signed));
    } catch (error) {
      if (error instanceof WebhookVerificationError) throw error;
      // The library reads the JSON of what is genuine, and of nothing else.
      if (error instanceof SyntaxError) throw unreadable(error);
      refusal = error;
    }
  }
  const said = refusal instanceof NotGenuine ? refusal.message : "it can't be checked";
  throw new WebhookVerificationError(`expected a genuine request: ${said}`, 401, { cause: refusal });
}

const HEADERS = ["webhook-id", "webhook-timestamp", "webhook-signature"];

function readHeaders(headers: WebhookHeaders): Record<string, string> {
  const pairs = Symbol.iterator in headers ? (headers as Iterable<readonly [string, unknown]>) : Object.entries(headers);
  const found: Record<string, string> = {};
  for (const [spelled, value] of pairs) {
    const name = spelled.toLowerCase();
    if (!HEADERS.includes(name)) continue;
    if (name in found || typeof value !== "string") {
      throw new WebhookVerificationError(`expected the header ${name} once, came several`, 401);
    }
    found[name] = value;
  }
  // The library also takes what begins with a number.
  if (!/^[0-9]{1,15}$/.test(found["webhook-timestamp"] ?? "")) {
    throw new WebhookVerificationError(`expected the headers ${HEADERS.join(", ")}, came not all of them`, 401);
  }
  return found;
}

function decode(body: Uint8Array | string): string {
  if (typeof body === "string") return body;
  if (!(body instanceof Uint8Array)) {
    throw new TypeError("body: expected the bytes as they came, came what was made of them");
  }
  try {
    return new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(body);
  } catch (error) {
    throw unreadable(error);
  }
}

function parse(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch (error) {
    throw unreadable(error);
  }
}

/** The event out of what SNS, EventBridge or MNS has put around it, or several of them; else what came. */
function openEnvelope(text: string): unknown {
  const first = text.trimStart()[0];
  // MNS with the format XML: what is published is Base64, which XML leaves as it is.
  if (first === "<") return openEnvelope(/<Message>([A-Za-z0-9+/=]+)<\/Message>/.exec(text)?.[1] ?? "");
  if (first !== "{" && text !== "") {
    const bytes = Buffer.from(text, "base64");
    if (bytes.length === 0 || bytes.toString("base64") !== text) throw unreadable();
    return openEnvelope(decode(bytes));
  }
  const document = parse(text);
  if (!isObject(document)) return document;
  // As SNS has it, and MNS with the format JSON.
  const isMessage = document["Type"] === "Notification" || "TopicName" in document;
  if (isMessage && typeof document["Message"] === "string") return openEnvelope(document["Message"]);
  return "detail-type" in document && "detail" in document ? document["detail"] : document;
}

function readEvent(document: unknown): MediaEvent | UnknownEvent {
  if (!isObject(document) || !isObject(document["data"])) throw unreadable();
  const { id, source, type, dataschema, data } = document;
  const isText = [id, source, type, dataschema].every((value) => typeof value === "string" && value !== "");
  if (!isText || !(dataschema as string).startsWith("urn:media-callbacks:")) throw unreadable();
  const event = document as unknown as MediaEvent | UnknownEvent;
  if (isKnown(event) && SCHEMAS[event.data.kind] !== dataschema) throw unreadable();
  return event;
}

function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

function unreadable(cause?: unknown): WebhookVerificationError {
  return new WebhookVerificationError("expected an event of media-callbacks in the body, came something else", 400, {
    cause,
  });
}
