// The lines of text of all nodes, also of workflows that are not open, and the events that end them. web/node_lines.js
// draws them.
import { translate } from "./translation.js";

export class Line {
  // `node`: the node's execution id. `kind`: "state" is shown while the node runs, "result" replaces it, "note" is
  // shown below either.
  constructor(node, prompt, kind, text) {
    Object.assign(this, { node, prompt, kind, said: text });
  }
}

class NodeLines {
  state = null; // a state or a result
  notes = new Set();
  earlier = false;

  constructor(node) {
    this.node = node;
  }

  get text() {
    const said = [this.state?.said, ...this.notes].filter(Boolean).join("\n");
    return this.earlier && said ? `${translate("not run again, from an earlier run:")}\n${said}` : said;
  }
}

export class Lines {
  #workflows = new Map(); // by workflow: its nodes' lines by execution id

  of(workflow) {
    return [...this.#nodes(workflow).values()].filter((each) => each.text);
  }

  tell(workflow, line) {
    const nodes = this.#nodes(workflow);
    const found = nodes.get(line.node) ?? new NodeLines(line.node);
    nodes.delete(line.node); // so that it is set again at the end: the latest line counts
    nodes.set(line.node, found);
    found.earlier = false;
    if (line.kind === "note") found.notes.add(line.said);
    else found.state = line.said ? line : null;
  }

  // A prompt of the workflow begins: drop the lines of the nodes that it runs again, and mark those of the others,
  // which ComfyUI has cached, as from an earlier run.
  begin(workflow, cached) {
    const kept = new Set(cached.map(String));
    const nodes = this.#nodes(workflow);
    for (const [id, found] of [...nodes]) {
      if (!kept.has(id) || found.state?.kind === "state") nodes.delete(id);
      else found.earlier = true;
    }
  }

  // The prompt now runs this node, so states of its other nodes have ended.
  onlyRuns(prompt, node) {
    this.#close((line) => line.prompt === prompt && line.node !== node, "");
  }

  // The prompt has ended: at `node`, if one is given, with the text `how`.
  end(prompt, how = "", node = null) {
    this.#close((line) => line.prompt === prompt && line.node === node, how);
    this.#close((line) => line.prompt === prompt, "");
  }

  // The connection is lost, and with it all news of what runs.
  lose(text) {
    this.#close(() => true, text);
  }

  #close(which, how) {
    for (const nodes of this.#workflows.values()) {
      for (const found of nodes.values()) {
        if (found.state?.kind !== "state" || !which(found.state)) continue;
        found.state = how ? new Line(found.node, found.state.prompt, "result", how) : null;
      }
    }
  }

  #nodes(workflow) {
    if (!this.#workflows.has(workflow)) this.#workflows.set(workflow, new Map());
    return this.#workflows.get(workflow);
  }
}
