// Driver of the official TypeScript client, 1.x. Its packages are found from the folder that NODE_MODULES_HOME names.
import { createRequire } from "node:module";
import { createInterface } from "node:readline";
import { join } from "node:path";
import { pathToFileURL } from "node:url";

const require = createRequire(join(process.env.NODE_MODULES_HOME, "package.json"));
const load = (name) => import(pathToFileURL(require.resolve(name)).href);
const { Client } = await load("@modelcontextprotocol/sdk/client/index.js");
const { StreamableHTTPClientTransport } = await load("@modelcontextprotocol/sdk/client/streamableHttp.js");

let client;
let transport;

const commands = {
  async connect({ url, name, headers }) {
    client = new Client({ name, version: "1" }, { capabilities: {} });
    transport = new StreamableHTTPClientTransport(new URL(url), { requestInit: { headers } });
    await client.connect(transport);
    return { protocolVersion: transport.protocolVersion };
  },
  call: ({ name, arguments: args }) => client.callTool({ name, arguments: args }),
  read: ({ uri }) => client.readResource({ uri }),
  prompt: ({ name }) => client.getPrompt({ name }),
  async list() {
    const { completion } = await client.complete({
      ref: { type: "ref/prompt", name: "test_prompt_with_arguments" },
      argument: { name: "arg1", value: "" },
    });
    return {
      tools: (await client.listTools()).tools.map((tool) => tool.name),
      resources: (await client.listResources()).resources.map((resource) => resource.uri),
      templates: (await client.listResourceTemplates()).resourceTemplates.map((each) => each.uriTemplate),
      prompts: (await client.listPrompts()).prompts.map((prompt) => prompt.name),
      completions: completion.values,
    };
  },
  async close() {
    await transport.terminateSession();
    await client.close();
    return null;
  },
};

for await (const line of createInterface({ input: process.stdin })) {
  const command = JSON.parse(line);
  let answer;
  try {
    answer = { ok: true, result: await commands[command.do](command) };
  } catch (error) {
    console.error(error);
    answer = { ok: false, error: `${error.name}: ${error.message}` };
  }
  process.stdout.write(`${JSON.stringify(answer)}\n`);
}
process.exit(0);
