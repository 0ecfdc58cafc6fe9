// The button on a loader node that asks the worker for its list, and shows the state of that.
const HEIGHT = 24;
const STYLE = {
  width: "100%",
  height: "100%",
  padding: "0 6px",
  border: "1px solid var(--border-color, #4e4e4e)",
  borderRadius: "6px",
  background: "var(--comfy-input-bg, #222)",
  color: "var(--input-text, #ddd)",
  font: "12px/16px Inter, Arial, sans-serif",
  overflowWrap: "anywhere",
  cursor: "pointer",
};
const WARNING = "#f0b040";

export class ListButton {
  constructor(node, onClick) {
    this.node = node;
    this.height = HEIGHT;
    this.added = 0;
    this.element = document.createElement("button");
    this.words = document.createElement("div");
    this.words.className = "comfy-gpu-offload-list";
    Object.assign(this.element.style, STYLE);
    this.element.append(this.words);
    this.element.addEventListener("click", onClick);
    const height = () => this.height;
    this.widget = node.addDOMWidget("worker_list", "worker_list", this.element, {
      // For prompts. The widget's own `serialize`, below, keeps it out of workflows, which hold values by position.
      serialize: false,
      hideOnZoom: false,
      margin: 4,
      getMinHeight: height,
      getMaxHeight: height,
    });
    this.widget.serialize = false;
    new ResizeObserver(() => this.fit()).observe(this.words);
  }

  show({ text, warns = false, disabled = false }) {
    this.words.textContent = text;
    this.element.title = text;
    this.element.disabled = disabled;
    this.element.style.color = warns ? WARNING : STYLE.color;
  }

  // Make the node as much taller as the text needs, and give that height back once the text is shorter.
  fit() {
    const wanted = Math.max(HEIGHT, this.words.offsetHeight + 16);
    if (!this.words.offsetHeight || wanted === this.height || !this.node.graph) return;
    this.height = wanted;
    const before = this.node.size[1] - this.added;
    const needed = Math.max(before, this.node.computeSize()[1]);
    this.added = needed - before;
    this.node.setSize([this.node.size[0], needed]);
    this.node.setDirtyCanvas(true, true);
  }
}
