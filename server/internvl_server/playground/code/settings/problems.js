// Says what is wrong with a field of the settings; an empty text means nothing.

/** Of a field for a number. */
export function numberProblem({ min, max, isWhole }, field) {
  if (field.validity.badInput) return "This is not a number.";
  if (field.value.trim() === "") return "";
  const number = Number(field.value);
  if (isWhole && !Number.isInteger(number)) return "Give a whole number.";
  if (min !== undefined && number < min) return `Give at least ${min}.`;
  if (max !== undefined && number > max) return `Give at most ${max}.`;
  return "";
}

function parseProblem(text) {
  try {
    JSON.parse(text);
  } catch (error) {
    return `This is not JSON: ${error.message}`;
  }
  return "";
}

/** Of a list of tools in JSON. */
export function toolsProblem(text) {
  if (!text.trim()) return "";
  const problem = parseProblem(text);
  if (problem) return problem;
  const tools = JSON.parse(text);
  if (!Array.isArray(tools)) return 'Give a list: [{"type": "function", "function": {…}}].';
  const wrong = tools.findIndex(
    (tool) => tool?.type !== "function" || typeof tool.function?.name !== "string",
  );
  return wrong < 0 ? "" : `Tool ${wrong + 1} needs "type": "function" and a "function" with a "name".`;
}

/** Of a JSON schema. */
export function schemaProblem(text) {
  const problem = parseProblem(text);
  if (problem) return problem;
  const schema = JSON.parse(text);
  return schema !== null && typeof schema === "object" && !Array.isArray(schema)
    ? ""
    : "A schema is an object.";
}
