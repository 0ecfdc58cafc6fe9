// Keeps the model that a workflow names. ComfyUI's frontend (1.27 to 1.48 at least) puts the first entry of a list that
// comes from a server in its place as soon as the list is there: Comfy-Org/ComfyUI_frontend, pull request 17414.
import { app } from "../../scripts/app.js";

const NAMES = { RemoteModelLoader: "model_name", RemoteControlNetLoader: "control_net_name" };

function keepSavedName(node, widget) {
  let saved; // what the workflow names, until the list is there
  let arrived = false;

  const configured = node.onConfigure;
  node.onConfigure = function (...parameters) {
    const result = configured?.apply(this, parameters);
    if (!arrived && widget.value) saved = widget.value;
    return result;
  };

  const told = widget.callback;
  widget.callback = function (value, ...parameters) {
    if (!arrived) {
      const list = widget.options?.values;
      if (Array.isArray(list) && list.length && value === list[0]) {
        arrived = true;
        if (saved) widget.value = value = saved; // though this worker may not have it: then it is said by name
      } else if (value) {
        saved = value; // set by a script, before the list was there
      }
    }
    return told?.call(this, value, ...parameters);
  };
}

app.registerExtension({
  name: "comfy-gpu-offload.keep-saved-name",
  nodeCreated(node) {
    const widget = node.widgets?.find((each) => each.name === NAMES[node.comfyClass]);
    if (widget) keepSavedName(node, widget);
  },
});
