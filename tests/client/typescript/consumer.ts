// A consumer: it is given requests on its standard input, one JSON a line, and says of each who took it.
import { createInterface } from "node:readline";

import {
  type EventOf,
  type MediaEvent,
  Receiver,
  type UnknownEvent,
  verify,
  type WebhookHeaders,
  WebhookVerificationError,
} from "media-callbacks";

interface Request {
  secrets: string[];
  headers: Record<string, string | string[]> | [string, string][];
  body: string;
  unsigned?: boolean;
}

// Each kind has its own outputs, by a switch or by a handler.
function url(event: MediaEvent): string | null | undefined {
  switch (event.data.kind) {
    case "animated_image":
      return event.data.outputs[0]?.url;
    case "snapshot":
      return event.data.outputs[0]?.urls[0];
    case "notice": {
      const none: [] = event.data.outputs;
      const received: "received" = event.data.outcome;
      return none.length === 0 ? received : null;
    }
    default:
      return event.data.error?.message;
  }
}

function makeReceiver(secrets: string[], said: string[]): Receiver {
  return new Receiver({ secrets })
    .on("animated_image", (event) => {
      const width: number | null | undefined = event.data.outputs[0]?.width;
      said.push(`animated_image ${event.data.user_data} ${width} ${url(event)}`);
    })
    .on(["snapshot", "transcode"], async (event: EventOf<"snapshot" | "transcode">) => {
      await Promise.resolve();
      said.push(`${event.data.kind} ${event.data.outputs.length}`);
    })
    .on("review", () => {
      throw new Error("the handler's own");
    })
    .on("operational", (event) => {
      const ended: string | null = event.data.ended_at;
      said.push(`${event.data.trouble} ${event.subject} ${ended}`);
    })
    .default((event: MediaEvent | UnknownEvent) => {
      said.push(`default ${event.type}`);
    });
}

async function answer({ secrets, headers, body, unsigned }: Request): Promise<string> {
  const said: string[] = [];
  try {
    const bytes = Buffer.from(body, "base64");
    const receiver = makeReceiver(secrets, said);
    if (unsigned) {
      const event = await receiver.receiveUnsigned(bytes);
      return `${said} ${event.id}`;
    }
    const event = await receiver.receive(headers as WebhookHeaders, bytes);
    if (verify(new Headers(headers as [string, string][]), bytes, secrets).id !== event.id) return "not the same";
    return `${said} ${event.id}`;
  } catch (error) {
    if (error instanceof WebhookVerificationError) return `${error.status} ${said}`.trim();
    return `${error}`;
  }
}

for await (const line of createInterface({ input: process.stdin })) {
  console.log(await answer(JSON.parse(line) as Request));
}
