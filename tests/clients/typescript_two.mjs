// Driver of the official TypeScript client, 2.x. Without options it makes the handshake, which is the point here.
import { asked, listChanged, load, serve } from "./typescript.mjs";

const { Client, StreamableHTTPClientTransport } = await load("@modelcontextprotocol/client");

await serve(StreamableHTTPClientTransport, (info) => {
  const client = new Client(info, { capabilities: { elicitation: {} } });
  client.setRequestHandler("elicitation/create", asked);
  client.setNotificationHandler("notifications/tools/list_changed", listChanged);
  return { client, callTool: (params, options) => client.callTool(params, options) };
});
