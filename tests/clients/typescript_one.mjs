// Driver of the official TypeScript client, 1.x.
import { asked, listChanged, load, serve, updated } from "./typescript.mjs";

const { Client } = await load("@modelcontextprotocol/sdk/client/index.js");
const { StreamableHTTPClientTransport } = await load("@modelcontextprotocol/sdk/client/streamableHttp.js");
const types = await load("@modelcontextprotocol/sdk/types.js");

await serve(StreamableHTTPClientTransport, (info) => {
  const client = new Client(info, { capabilities: { elicitation: {} } });
  client.setRequestHandler(types.ElicitRequestSchema, asked);
  client.setNotificationHandler(types.ToolListChangedNotificationSchema, listChanged);
  client.setNotificationHandler(types.ResourceUpdatedNotificationSchema, updated);
  return { client, callTool: (params, options) => client.callTool(params, undefined, options) };
});
