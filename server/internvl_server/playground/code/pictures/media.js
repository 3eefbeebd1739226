// Pictures and clips: from files to items of a message.

const FRAME_SIDE = 448;
// A browser that saves power or data may never load a clip, which is then sent without being shown.
const LONGEST_WAIT_MS = 15_000;
const urls = new WeakMap();
const encoded = new WeakMap();

/** An address of a blob for this page. */
export function objectUrl(blob) {
  if (!urls.has(blob)) urls.set(blob, URL.createObjectURL(blob));
  return urls.get(blob);
}

/** A blob as a `data:` URL. */
export function dataUrl(blob) {
  if (!encoded.has(blob)) {
    encoded.set(
      blob,
      new Promise((resolve, reject) => {
        const reader = new FileReader();
        reader.onload = () => resolve(reader.result);
        reader.onerror = () => reject(reader.error);
        reader.readAsDataURL(blob);
      }),
    );
  }
  return encoded.get(blob);
}

/** A blob from a `data:` URL, without a request. */
export function blobOf(url) {
  const [head, body] = url.split(",", 2);
  const bytes = Uint8Array.from(atob(body), (character) => character.charCodeAt(0));
  return new Blob([bytes], { type: head.slice(5).split(";")[0] });
}

const isVideo = (file) => file.type.startsWith("video/") || /\.(mp4|m4v|mov|webm|mkv)$/i.test(file.name);
const isPicture = (file) =>
  file.type.startsWith("image/") || /\.(heic|heif|avif|tiff?|jpe?g|png|webp|gif|bmp)$/i.test(file.name);

/**
 * The item of a file, or null if it is neither a picture nor a video.
 * @param {File} file
 * @param {number} numFrames of a video
 */
export async function readFile(file, numFrames) {
  if (isVideo(file)) return videoItem(file, numFrames);
  return isPicture(file) ? pictureItem(file) : null;
}

async function pictureItem(file) {
  const item = {
    kind: "image",
    name: file.name || "picture",
    blob: file,
    width: 0,
    height: 0,
    isShown: true,
    detail: null,
    tiling: null,
  };
  const image = new Image();
  image.src = objectUrl(file);
  try {
    await image.decode();
    Object.assign(item, { width: image.naturalWidth, height: image.naturalHeight });
  } catch {
    item.isShown = false; // a format that the server reads and this browser does not
  }
  return item;
}

async function videoItem(file, numFrames) {
  const item = {
    kind: "video",
    name: file.name || "clip",
    blob: file,
    width: 0,
    height: 0,
    isShown: true,
    frames: [],
    tiling: null,
  };
  try {
    Object.assign(item, await readFrames(file, numFrames));
  } catch {
    item.isShown = false;
  }
  return item;
}

const once = (target, name) =>
  new Promise((resolve, reject) => {
    const fail = () => reject(new Error("The browser cannot play this clip."));
    target.addEventListener(name, resolve, { once: true });
    target.addEventListener("error", fail, { once: true });
    setTimeout(fail, LONGEST_WAIT_MS);
  });

/** Take the middle frame of each of equal segments, as the server does. */
export async function readFrames(blob, numFrames) {
  const video = document.createElement("video");
  Object.assign(video, { muted: true, preload: "auto", playsInline: true, src: objectUrl(blob) });
  await once(video, "loadeddata");
  if (!video.videoWidth) throw new Error("The clip has no picture.");
  const frames = [];
  const scale = Math.min(1, FRAME_SIDE / Math.max(video.videoWidth, video.videoHeight));
  const canvas = document.createElement("canvas");
  canvas.width = Math.round(video.videoWidth * scale);
  canvas.height = Math.round(video.videoHeight * scale);
  for (let index = 0; index < numFrames; index += 1) {
    video.currentTime = ((index + 0.5) * video.duration) / numFrames;
    await once(video, "seeked");
    canvas.getContext("2d").drawImage(video, 0, 0, canvas.width, canvas.height);
    frames.push(
      await new Promise((resolve) => {
        canvas.toBlob(resolve, "image/jpeg", 0.85);
      }),
    );
  }
  return { width: video.videoWidth, height: video.videoHeight, duration: video.duration, frames };
}
