// What is said of nodes at present; of workflows that are not open, too.
import { translate } from "./translation.js";

export class Line {
  // `node`: its execution id. `kind`: "state" holds while the node runs, "result" is how it ended, "note" stays beside.
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
  #workflows = new Map(); // by workflow, of nodes by execution id

  of(workflow) {
    return [...this.#nodes(workflow).values()].filter((each) => each.text);
  }

  tell(workflow, line) {
    const nodes = this.#nodes(workflow);
    const found = nodes.get(line.node) ?? new NodeLines(line.node);
    nodes.delete(line.node); // to the end: what came last counts
    nodes.set(line.node, found);
    found.earlier = false;
    if (line.kind === "note") found.notes.add(line.said);
    else found.state = line.said ? line : null;
  }

  // A prompt of the workflow begins: what stands on nodes that it runs again was about an earlier one.
  begin(workflow, cached) {
    const kept = new Set(cached.map(String));
    const nodes = this.#nodes(workflow);
    for (const [id, found] of [...nodes]) {
      if (!kept.has(id) || found.state?.kind === "state") nodes.delete(id);
      else found.earlier = true;
    }
  }

  // Only that node of the prompt runs: another one's state holds no more.
  onlyRuns(prompt, node) {
    this.#close((line) => line.prompt === prompt && line.node !== node, "");
  }

  // The prompt has ended: at `node`, in that way.
  end(prompt, how = "", node = null) {
    this.#close((line) => line.prompt === prompt && line.node === node, how);
    this.#close((line) => line.prompt === prompt, "");
  }

  // Nothing more is heard of what runs.
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
