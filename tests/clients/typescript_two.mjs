// Driver of the official TypeScript client, 2.x. Without options it makes the handshake, as "legacy" does.
import { asked, listChanged, load, serve, updated } from "./typescript.mjs";

const { Client, StreamableHTTPClientTransport } = await load("@modelcontextprotocol/client");
const MODES = { legacy: undefined, auto: { mode: "auto" }, modern: { mode: { pin: "2026-07-28" } } };

await serve(StreamableHTTPClientTransport, (info, mode) => {
  const client = new Client(info, { capabilities: { elicitation: {} }, versionNegotiation: MODES[mode] });
  client.setRequestHandler("elicitation/create", asked);
  client.setNotificationHandler("notifications/tools/list_changed", listChanged);
  client.setNotificationHandler("notifications/resources/updated", updated);
  return {
    client,
    callTool: (params, options) => client.callTool(params, options),
    listen: (filter) => client.listen(filter),
  };
});
