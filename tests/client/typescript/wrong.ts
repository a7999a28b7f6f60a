// What a consumer may not write: each line marked is an error of that number, and no other line is one.
import { type MediaEvent, Receiver, type SnapshotEvent, type UnknownEvent } from "media-callbacks";

const receiver = new Receiver({ secrets: ["whsec_..."] });

receiver.on("animated_image", (event) => console.log(event.data.outputs[0]?.width));
receiver.on("animated_image", (event) => console.log(event.data.outputs[0]?.url_template)); // TS2339
receiver.on("animated_image", (event: SnapshotEvent) => console.log(event)); // TS2345
receiver.on("hologram", () => undefined); // TS2345
receiver.on(["ai", "review"], (event) => console.log(event.data.outputs[0]?.suggestion)); // TS2339
receiver.default((event: MediaEvent) => console.log(event)); // TS2345
receiver.default((event: UnknownEvent | MediaEvent) => console.log(event.data.kind));
await receiver.receive({ "webhook-id": "evt_1" }, { id: "evt_1" }); // TS2353

export function describe(event: MediaEvent): string {
  switch (event.data.kind) {
    case "snapshot":
      return event.data.outputs[0]?.snapshot_type ?? "";
    case "hologram": // TS2678
      return "";
    case "upload":
      return event.data.outputs[0]?.bitrate_kbps; // TS2339
    default:
      event.data.outcome = "over"; // TS2322
      return event.data.kind;
  }
}
