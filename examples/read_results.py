"""What a run answered, as a table: `python examples/read_results.py` beside a store `.sevila` (SEVILA_STORE)."""

import pyarrow.compute as pc

import sevila

newest = sevila.artifact("answer_questions")
answers = newest.arrow().select(["question_id", "status", "reason", "prediction"])
asked = sevila.artifact(str(newest.record.inputs["questions"])).arrow("questions")
questions = asked.select(["question_id", "question", "question_type", "answer_index"])
table = questions.join(answers, "question_id").sort_by("question_id")
# Without an answer it counts as wrong.
right = pc.fill_null(pc.equal(table["prediction"], table["answer_index"]), False)
print(table.append_column("right", right).group_by("question_type").aggregate([("right", "mean"), ("right", "count")]))
for row in table.filter(pc.equal(table["status"], "failed")).to_pylist():
    print("no answer:", row["question"], "because", row["reason"])
