// The microphone: a recording becomes a mono WAV file, which the server reads without any codec.

export const canRecord = () => Boolean(navigator.mediaDevices?.getUserMedia && window.MediaRecorder);

// Starts at once; resolves to {stop, file}: file resolves when stopped, or after `most` seconds.
export async function record(most) {
  const stream = await navigator.mediaDevices.getUserMedia({ audio: true });
  const recorder = new MediaRecorder(stream);
  const parts = [];
  recorder.ondataavailable = (event) => parts.push(event.data);
  const ended = new Promise((done) => (recorder.onstop = done));
  recorder.start();
  const timer = setTimeout(() => stop(), 1000 * most);
  function stop() {
    clearTimeout(timer);
    if (recorder.state !== "inactive") recorder.stop();
  }
  const file = ended.then(async () => {
    stream.getTracks().forEach((track) => track.stop());
    return wav(await new Blob(parts, { type: recorder.mimeType }).arrayBuffer());
  });
  return { stop, file };
}

async function wav(encoded) {
  const context = new AudioContext();
  const sound = await context.decodeAudioData(encoded).finally(() => context.close());
  const channels = Array.from({ length: sound.numberOfChannels }, (_, c) => sound.getChannelData(c));
  const out = new DataView(new ArrayBuffer(44 + 2 * sound.length));
  const word = (at, letters) => [...letters].forEach((l, i) => out.setUint8(at + i, l.charCodeAt(0)));
  word(0, "RIFF"), word(8, "WAVEfmt "), word(36, "data");
  out.setUint32(4, 36 + 2 * sound.length, true), out.setUint32(16, 16, true);
  out.setUint16(20, 1, true), out.setUint16(22, 1, true); // PCM, mono
  out.setUint32(24, sound.sampleRate, true), out.setUint32(28, 2 * sound.sampleRate, true);
  out.setUint16(32, 2, true), out.setUint16(34, 16, true);
  out.setUint32(40, 2 * sound.length, true);
  for (let i = 0; i < sound.length; i++) {
    const mean = channels.reduce((sum, c) => sum + c[i], 0) / channels.length;
    out.setInt16(44 + 2 * i, Math.round(32767 * Math.max(-1, Math.min(1, mean))), true);
  }
  return new File([out.buffer], "recording.wav", { type: "audio/wav" });
}
