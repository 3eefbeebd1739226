// Takes a photo: with the camera in the page, or with the phone's own camera program.

import { byId, h } from "../page/dom.js";
import { icon } from "../page/icons.js";
import { notify, openDialog } from "../page/messages.js";

const isPhone = () => matchMedia("(pointer: coarse)").matches;

/** Wire the button; `onfiles` gets the photo. */
export function setUpCamera(onfiles) {
  const file = byId("camera-file");
  byId("photograph").append(icon("camera"));
  file.addEventListener("change", () => {
    onfiles([...file.files]);
    file.value = "";
  });
  byId("photograph").addEventListener("click", () => {
    if (isPhone() || !navigator.mediaDevices?.getUserMedia) file.click();
    else show(onfiles);
  });
}

async function show(onfiles) {
  let stream;
  try {
    stream = await navigator.mediaDevices.getUserMedia({
      video: { width: { ideal: 1920 }, facingMode: "environment" },
    });
  } catch (error) {
    notify(`The camera cannot be used: ${error.message}.`);
    return;
  }
  const video = h("video", {
    autoplay: true,
    muted: true,
    playsInline: true,
    class: "viewfinder",
    "aria-label": "Camera picture",
  });
  video.srcObject = stream;
  const take = h(
    "button",
    {
      type: "button",
      class: "primary",
      onclick: async () => {
        onfiles([await photo(video)]);
        dialog.close();
      },
    },
    "Take the photo",
  );
  const dialog = openDialog("Camera", video, h("div", { class: "row end" }, take));
  dialog.addEventListener("close", () => stream.getTracks().forEach((track) => track.stop()));
  take.focus();
}

async function photo(video) {
  const canvas = h("canvas", { width: video.videoWidth, height: video.videoHeight });
  canvas.getContext("2d").drawImage(video, 0, 0);
  const blob = await new Promise((resolve) => {
    canvas.toBlob(resolve, "image/jpeg", 0.92);
  });
  return new File([blob], "photo.jpg", { type: "image/jpeg" });
}
